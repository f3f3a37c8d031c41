/** What crosses between worker-runner.ts and worker.ts. */
import {
  type LateMasks,
  ModelError,
  type ModelInfo,
  type ModelRequest,
  RunnerError,
  type RunnerProblem,
} from './runner.ts'
import type { ResultDetails } from './step-codec.ts'

export type WorkerCall =
  | { readonly kind: 'load'; readonly request: ModelRequest }
  | { readonly kind: 'readBlocks'; readonly blocks: readonly number[]; readonly poolId?: number | undefined }
  | {
      readonly kind: 'writeBlocks'
      readonly blocks: readonly number[]
      readonly bytes: Uint8Array
      readonly poolId?: number | undefined
    }
  | { readonly kind: 'close' }

/**
 * Steps go through slots, shared memory for a plan and then its result (step-codec.ts): a number says that the plan in that slot is to be
 * run. `memory` comes before the first use of a slot, and again when a plan needed more; `masks` after the number, where the plan says so.
 */
export type WorkerRequest =
  | number
  | { readonly id: number; readonly call: WorkerCall }
  | { readonly slot: number; readonly memory: SharedArrayBuffer }
  | { readonly slot: number; readonly masks: LateMasks }

/** A number: the result in that slot is complete. */
export type WorkerResponse =
  | number
  | { readonly id: number; readonly value: ModelInfo | Uint8Array | null }
  | { readonly id: number; readonly error: WireError }
  | { readonly slot: number; readonly details: ResultDetails }
  | { readonly slot: number; readonly error: WireError }
  | { readonly progress: readonly [doneBytes: number, totalBytes: number] }
  | { readonly problem: RunnerProblem | null }

/** An error as plain data: classes do not survive the structured clone. */
interface WireError {
  readonly kind: 'model' | 'runner' | 'other'
  readonly code: RunnerError['code']
  readonly isOfDevice: boolean
  readonly sequence: number | null
  readonly message: string
  readonly stack: string | undefined
}

/** An error as data that can be cloned; class and code survive. */
export function toWireError(error: unknown): WireError {
  const { message, stack } = error instanceof Error ? error : new Error(String(error))
  const other = { kind: 'other', code: 'engine_error', isOfDevice: false, sequence: null, message, stack } as const
  if (error instanceof ModelError) return { ...other, kind: 'model', isOfDevice: error.isOfDevice }
  if (error instanceof RunnerError) return { ...other, kind: 'runner', code: error.code, sequence: error.sequence }
  return other
}

/** The error as the caller of a local runner would have seen it, with the worker's stack as its cause. */
export function fromWireError({ kind, code, isOfDevice, sequence, message, stack }: WireError): Error {
  const cause = new Error(message)
  if (stack !== undefined) cause.stack = stack
  if (kind === 'model') return new ModelError(message, { cause, isOfDevice })
  return new RunnerError(code, message, { cause, sequence })
}
