import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** Files that take long. They begin first, so that none of them runs alone at the end. */
const LONG = [
  'test/kernels/webgpu.test.ts',
  'test/e2e/endings.test.ts',
  'test/e2e/cli.test.ts',
  'test/golden/golden.test.ts',
  'test/e2e/attacks-fields.test.ts',
  'src/server/ui/traces.browser.test.ts',
  'src/rag/worker-rpc.test.ts',
  'src/engine/structured/json-schema/json-schema.test.ts',
  'test/e2e/large-requests.test.ts',
  'test/e2e/exporter.test.ts',
  'src/rag/service.test.ts',
  'test/e2e/rag.test.ts',
]

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification) => {
      const index = LONG.findIndex((path) => moduleId.endsWith(path))
      return index < 0 ? LONG.length : index
    }
    return (await super.sort(files)).toSorted((a, b) => rank(a) - rank(b))
  }
}

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
    sequence: { sequencer: LongestFirst },
    testTimeout: 60_000,
    hookTimeout: 60_000,
    teardownTimeout: 10_000,
    reporters: ['default'],
  },
})
