import { defineConfig } from 'vitest/config'

// Forks, not threads: the tests start worker threads and native addons of their own, and a crash must name its file.
export default defineConfig({
  // What the benches' helpers import from the build comes from the sources here.
  resolve: {
    alias: [{ find: /^#dist\/(.*)\.js$/, replacement: new URL('./src/$1.ts', import.meta.url).pathname }],
  },
  test: {
    include: ['src/**/*.test.ts', 'src/**/*.test.tsx', 'test/**/*.test.ts'],
    pool: 'forks',
    // Worker threads inherit it: their entries are TypeScript here.
    execArgv: ['--import', new URL('./test/typescript-workers.mjs', import.meta.url).href],
    // One more than CI has cores: the end-to-end tests wait for processes of their own much of the time.
    maxWorkers: 3,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    teardownTimeout: 10_000,
    reporters: ['default'],
  },
})
