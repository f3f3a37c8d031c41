import { describe, expect, it } from 'vitest'
import { RagError } from './errors.ts'
import { WorkerClient } from './worker-rpc.ts'

interface Api {
  readonly die: { readonly params: null; readonly result: null }
}

const failureOf = async (code: string): Promise<RagError> => {
  const url = new URL(`data:text/javascript,${encodeURIComponent(code)}`)
  const client = new WorkerClient<Api>(url, {
    name: 'the worker',
    concurrency: 1,
    maxWaiting: 1,
    failureCode: 'model_unavailable',
    drainOnClose: false,
  })
  const error: unknown = await client.call('die', null).catch((reason: unknown) => reason)
  await client.close()
  if (!(error instanceof RagError)) throw new Error('expected a RagError')
  return error
}

describe('the death of a worker', () => {
  it.each([
    ['throw new Error("no /secret/path")', /^the worker failed$/],
    [
      'import { parentPort } from "node:worker_threads"; process.stderr.write("at /secret/path", () => process.exit(3)); parentPort.on("message", () => {})',
      /^the worker ended with code 3$/,
    ],
  ])('tells clients that it happened, and only the log why: %s', async (code, message) => {
    const error = await failureOf(code)
    expect(error.message).toMatch(message)
    expect(error.code).toBe('model_unavailable')
    expect(error.cause).toMatchObject({ message: expect.stringContaining('/secret/path') })
  })
})
