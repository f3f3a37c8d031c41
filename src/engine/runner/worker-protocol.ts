/** The messages between worker-runner.ts and worker.ts. */
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
 * Steps go through slots: shared memory that holds a plan and then its result (step-codec.ts). A number asks to run the plan in that slot. `memory` is
 * sent before the first use of a slot, and again when a plan needs more. `masks` follow the number if the plan says so.
 */
export type WorkerRequest =
  | number
  | { readonly id: number; readonly call: WorkerCall }
  | { readonly slot: number; readonly memory: SharedArrayBuffer }
  | { readonly slot: number; readonly masks: LateMasks }

/** A number reports that the result in that slot is complete. */
export type WorkerResponse =
  | number
  | { readonly id: number; readonly value: ModelInfo | Uint8Array | null }
  | { readonly id: number; readonly error: WireError }
  | { readonly slot: number; readonly details: ResultDetails }
  | { readonly slot: number; readonly error: WireError }
  | { readonly progress: readonly [doneBytes: number, totalBytes: number] }
  | { readonly problem: RunnerProblem | null }

/** An error as plain data, because the structured clone does not keep classes. */
interface WireError {
  readonly kind: 'model' | 'runner' | 'other'
  readonly code: RunnerError['code']
  readonly isOfDevice: boolean
  readonly sequence: number | null
  readonly message: string
  readonly stack: string | undefined
}

/** The error as data that can be cloned, with its class and code. */
export function toWireError(error: unknown): WireError {
  const { message, stack } = error instanceof Error ? error : new Error(String(error))
  const other = { kind: 'other', code: 'engine_error', isOfDevice: false, sequence: null, message, stack } as const
  if (error instanceof ModelError) return { ...other, kind: 'model', isOfDevice: error.isOfDevice }
  if (error instanceof RunnerError) return { ...other, kind: 'runner', code: error.code, sequence: error.sequence }
  return other
}

/** The error as a local runner would have thrown it, with the worker's stack in its cause. */
export function fromWireError({ kind, code, isOfDevice, sequence, message, stack }: WireError): Error {
  const cause = new Error(message)
  if (stack !== undefined) cause.stack = stack
  if (kind === 'model') return new ModelError(message, { cause, isOfDevice })
  return new RunnerError(code, message, { cause, sequence })
}
