/** A worker for the tests of worker-rpc.ts: answers, waits for its end, or dies. */
import { RagError } from '../../src/rag/errors.ts'
import { serveCalls, Transferred } from '../../src/rag/worker-rpc.ts'

export interface EchoWorkerApi {
  readonly pid: { readonly params: null; readonly result: number }
  readonly double: { readonly params: Float32Array; readonly result: Float32Array<ArrayBuffer> }
  readonly refuse: { readonly params: null; readonly result: null }
  /** Never answers; writes to stderr when it begins. */
  readonly wait: { readonly params: null; readonly result: null }
  readonly exit: { readonly params: { readonly code: number; readonly lastWords: string }; readonly result: null }
  readonly throwLater: { readonly params: { readonly lastWords: string }; readonly result: null }
}

const never = new Promise<never>(() => {})

serveCalls<EchoWorkerApi>({
  pid: async () => process.pid,
  async double(values) {
    const result = values.map((value) => value * 2)
    return new Transferred(result, [result.buffer])
  },
  async refuse() {
    throw new RagError('invalid_request', 'field: not this', 'field')
  },
  wait: () => never,
  exit({ code, lastWords }) {
    process.stderr.write(lastWords, () => process.exit(code))
    return never
  },
  throwLater({ lastWords }) {
    setImmediate(() => {
      throw new Error(lastWords)
    })
    return never
  },
})
