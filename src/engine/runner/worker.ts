/** The entry of the worker thread: a local runner that is called by messages. Steps begin in the order of their messages. */
import { parentPort, workerData } from 'node:worker_threads'
import { prepareDevice } from './device.ts'
import { createLocalRunner } from './local.ts'
import type { LateMasks, Runner } from './runner.ts'
import { readPlan, WordWriter, writeResult } from './step-codec.ts'
import { toWireError, type WorkerCall, type WorkerRequest, type WorkerResponse } from './worker-protocol.ts'

/** The least time between two progress messages, except for the last. */
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
  runner.onProblem?.((problem) => post({ problem }))
  const answer = async (id: number, call: WorkerCall): Promise<void> => {
    try {
      switch (call.kind) {
        case 'load':
          return post({ id, value: await runner.load(call.request, onProgress) })
        case 'readBlocks': {
          const bytes = await runner.readBlocks(call.blocks, call.poolId)
          const isWhole = bytes.buffer instanceof ArrayBuffer && bytes.byteLength === bytes.buffer.byteLength
          return post({ id, value: bytes }, isWhole ? [bytes.buffer as ArrayBuffer] : [])
        }
        case 'writeBlocks':
          await runner.writeBlocks(call.blocks, call.bytes, call.poolId)
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
  const slots: SharedArrayBuffer[] = []
  const awaited = new Map<number, (masks: LateMasks) => void>()
  const execute = async (slot: number): Promise<void> => {
    const memory = slots[slot]
    try {
      if (memory === undefined) throw new Error(`slot ${slot} has no memory`)
      const { plan, awaitsMasks } = readPlan(memory)
      const masks = awaitsMasks ? new Promise<LateMasks>((resolve) => awaited.set(slot, resolve)) : undefined
      const result = await runner.execute(plan, masks)
      // A result is smaller than its plan, so it fits.
      const details = writeResult(new WordWriter(memory), result)
      post(details === null ? slot : { slot, details })
    } catch (error) {
      post({ slot, error: toWireError(error) })
    }
  }
  port.on('message', (request: WorkerRequest) => {
    if (typeof request === 'number') void execute(request)
    else if ('memory' in request) slots[request.slot] = request.memory
    else if ('masks' in request) {
      awaited.get(request.slot)?.(request.masks)
      awaited.delete(request.slot)
    } else void answer(request.id, request.call)
  })
}

if (parentPort !== null) {
  serve(parentPort, createLocalRunner())
  prepareDevice((workerData as { readonly device: string | null } | null)?.device ?? null)
}
