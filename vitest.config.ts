import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** Files that take long, longest first. They begin first, so that none of them runs alone at the end. */
const LONG = [
  'test/e2e/endings.test.ts',
  'test/kernels/webgpu.test.ts',
  'test/e2e/large-requests.test.ts',
  'src/engine/structured/json-schema/json-schema.test.ts',
  'test/e2e/cli.test.ts',
  'test/kernels/absent.test.ts',
  'src/rag/worker-rpc.test.ts',
  'test/e2e/attacks-fields.test.ts',
  'test/kernels/isa.test.ts',
  'src/engine/state-memory.test.ts',
  'src/server/ui/traces.browser.test.ts',
  'test/e2e/chat-page.test.ts',
  'test/e2e/tools.test.ts',
  'test/e2e/rag.test.ts',
  'test/e2e/exporter.test.ts',
  'test/e2e/random-soak.test.ts',
  'test/e2e/doors.test.ts',
  'src/rag/service.test.ts',
]

/**
 * Tests of a unit that need a process of their own, because they start worker threads, processes or a browser, or change what belongs to the
 * process, or measure it (globals of OpenTelemetry, memory, the event loop). All other files beside the sources share processes: each module is loaded once.
 */
const OWN_PROCESS = [
  'src/**/*.browser.test.ts',
  'src/**/*.soak.test.ts',
  'src/rag/{crash,models,service,worker-rpc}.test.ts',
  'src/rag/stores/{journal,pgvector-*}.test.ts',
  'src/engine/runner/{model-memory,runner-thread,worker-runner}.test.ts',
  'src/engine/{soak,state-memory}.test.ts',
  'src/kernels/cpu/{pool,shards,shards-room}.test.ts',
  'src/observability/{environment,event-loop-watch,live-context,metrics,otlp-exporter}.test.ts',
]

/** First those with a process of their own, then those that share: a shared process ends when a file of the other kind is next. In both, the long ones first. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId, project }: TestSpecification) => {
      const index = LONG.findIndex((path) => moduleId.endsWith(path))
      const place = index < 0 ? LONG.length : index
      return project.config.isolate ? place : LONG.length + 1 + place
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
    projects: [
      { extends: true, test: { name: 'own process', include: [...OWN_PROCESS, 'test/**/*.test.ts'] } },
      {
        extends: true,
        test: {
          name: 'shared process',
          include: ['src/**/*.test.ts', 'src/**/*.test.tsx'],
          exclude: OWN_PROCESS,
          isolate: false,
          // What a test replaced is put back before the next one.
          restoreMocks: true,
          unstubEnvs: true,
          unstubGlobals: true,
        },
      },
    ],
  },
})
