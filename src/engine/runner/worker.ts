/** The worker thread's entry: a local runner behind messages. Steps are begun in the order their messages arrive. */
import { parentPort } from 'node:worker_threads'
import { createLocalRunner } from './local.ts'
import type { Runner } from './runner.ts'
import { toWireError, type WorkerCall, type WorkerRequest, type WorkerResponse } from './worker-protocol.ts'

/** Between two progress messages, unless the load is complete. */
const PROGRESS_INTERVAL_MS = 50

function serve(port: NonNullable<typeof parentPort>, runner: Runner): void {
  const post = (response: WorkerResponse, transfer: ArrayBuffer[] = []): void => port.postMessage(response, transfer)
  let progressAt = 0
  const onProgress = (doneBytes: number, totalBytes: number): void => {
    const now = performance.now()
    if (now - progressAt < PROGRESS_INTERVAL_MS && doneBytes < totalBytes) return
    progressAt = now
    post({ progress: [doneBytes, totalBytes] })
  }
  const answer = async (id: number, call: WorkerCall): Promise<void> => {
    try {
      switch (call.kind) {
        case 'load':
          return post({ id, value: await runner.load(call.request, onProgress) })
        case 'execute':
          return post({ id, value: await runner.execute(call.plan) })
        case 'readBlocks': {
          const bytes = await runner.readBlocks(call.blocks)
          const isWhole = bytes.buffer instanceof ArrayBuffer && bytes.byteLength === bytes.buffer.byteLength
          return post({ id, value: bytes }, isWhole ? [bytes.buffer as ArrayBuffer] : [])
        }
        case 'writeBlocks':
          await runner.writeBlocks(call.blocks, call.bytes)
          return post({ id, value: null })
        case 'close':
          await runner.close()
          return post({ id, value: null })
        default:
          throw new Error(`unknown call ${JSON.stringify(call)}`)
      }
    } catch (error) {
      post({ id, error: toWireError(error) })
    }
  }
  port.on('message', ({ id, call }: WorkerRequest) => void answer(id, call))
}

if (parentPort !== null) serve(parentPort, createLocalRunner())
