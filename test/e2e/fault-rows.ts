/** What may go wrong around the server: what people see of it, what is lost, and the test that shows it. docs/troubleshooting.md prints the table. */

export interface FaultRow {
  readonly fault: string
  readonly sees: string
  readonly lost: string
  /** The file of test/e2e, or of the suite, that provokes it. */
  readonly test: string
}

export const FAULTS = {
  diskFull: {
    fault: 'a full disk while documents are stored',
    sees: 'the answer of POST /v1/rag/documents says that storing failed; search and generation go on',
    lost: 'the documents of that request; nothing stored earlier, and a later try stores them',
    test: 'test/e2e/surroundings.test.ts',
  },
  descriptors: {
    fault: 'no file descriptors left',
    sees: 'new connections wait or are closed; open ones are served; all is well once descriptors are free',
    lost: 'nothing',
    test: 'test/e2e/surroundings.test.ts',
  },
  clock: {
    fault: 'a wall clock that jumps a day on and back',
    sees: 'nothing: deadlines and durations do not read the wall clock; a trace begins by the clock of its beginning',
    lost: 'nothing',
    test: 'test/e2e/surroundings.test.ts',
  },
  hangingUpstream: {
    fault: 'an upstream engine that accepts requests and is silent',
    sees: '504 when --request-timeout is over; the call is ended upstream as well; after three in succession other engines get the requests',
    lost: 'the requests that waited for it',
    test: 'test/e2e/surroundings.test.ts',
  },
  upstreamGone: {
    fault: 'an upstream engine that has gone',
    sees: 'a retry on another engine before the first byte, else 502 engine_error',
    lost: 'answers that had begun',
    test: 'test/e2e/remote.test.ts',
  },
  hangingStore: {
    fault: 'a vector store that is silent or refuses connections',
    sees: '503 store_unavailable for requests with retrieval; requests without it are served, and /ready stays green',
    lost: 'nothing',
    test: 'test/e2e/endings.test.ts',
  },
  storeConnections: {
    fault: 'a database that closes connections in use, as it does when it restarts',
    sees: '503 store_unavailable for the requests that used them; the next ones get new connections',
    lost: 'the documents of those requests, whole or not at all; nothing stored earlier',
    test: 'test/e2e/stores.test.ts',
  },
  twoWriters: {
    fault: 'two servers that store documents in one folder, one of them killed at any moment',
    sees: 'the other one goes on; both see what either has stored',
    lost: 'documents whose request had no answer yet',
    test: 'test/e2e/stores.test.ts',
  },
  collector: {
    fault: 'a collector that refuses, is silent, is slow or breaks off',
    sees: 'nothing: at most one log line in 30 seconds; /traces has every trace',
    lost: 'spans beyond the bounded queue, which are counted',
    test: 'test/e2e/exporter.test.ts',
  },
  runner: {
    fault: 'a runner thread that dies, or a device that is lost',
    sees: 'an error for the requests it ran; /ready is 503 until it is replaced (--on-fatal exit: the process ends with 1)',
    lost: 'the answers that were being generated',
    test: 'test/e2e/runner-death.test.ts',
  },
  crash: {
    fault: 'an exception that nobody catches',
    sees: 'the process ends with 1; every open request has its root span, its log line and its last export',
    lost: 'the answers that were being generated',
    test: 'test/e2e/endings.test.ts',
  },
} as const satisfies Readonly<Record<string, FaultRow>>

/** The table of docs/troubleshooting.md. */
export function faultsMarkdown(): string {
  const rows = Object.values(FAULTS).map(
    ({ fault, sees, lost, test }) => `| ${fault} | ${sees} | ${lost} | [test](../${test}) |`,
  )
  return ['| what goes wrong | what you see | what is lost | shown by |', '|---|---|---|---|', ...rows].join('\n')
}
