import type { DecoderSpec } from '#dist/engine/runner/decoder-spec.js'
import type { KvFormat, StepInput } from '#dist/kernels/ops.js'
import type { SampleRow, ScoreRow } from '#dist/kernels/sample-spec.js'
import type { AbsentGpu, Limits, Submission } from './absent-gpu.mjs'

export const MODELS: Readonly<Record<string, Readonly<Record<string, unknown>>>>
export const WEIGHTS: Readonly<Record<string, readonly [format: string, group: number, hasMins: boolean]>>

export interface AbsentOptions {
  readonly limits?: Limits
  /** Rows a step may have. */
  readonly rows?: number
  /** Tokens a sequence may have. */
  readonly context?: number
  readonly sequences?: number
  readonly kvFormat?: KvFormat
}

export interface AbsentModel {
  /** A decoder's; null: an encoder. */
  readonly spec: DecoderSpec | null
  readonly gpu: AbsentGpu
  /** Of the KV pool. */
  readonly numBlocks: number
  /** Bytes of matrices that every token is multiplied with, and of a token's own experts; 0: not counted. */
  readonly sharedBytes: number
  readonly expertBytes: number
  /** Bytes of a token in the KV pool. */
  readonly kvBytes: number
  /** Runs a step; what it submitted. */
  run(input: StepInput, samples?: readonly SampleRow[], scores?: readonly ScoreRow[]): Promise<readonly Submission[]>
}

export function loadAbsentModel(name: string, weights: string, options?: AbsentOptions): Promise<AbsentModel>
export function absentStep(
  model: AbsentModel,
  sequences: readonly (readonly [start: number, tokens: number])[],
): StepInput

export interface AbsentKernel {
  readonly kernel: string
  readonly kind: 'gemv' | 'gemm' | 'attention' | 'other'
  readonly defines: string
  readonly text: string
  readonly models: readonly string[]
}

export function absentKernels(models: readonly string[], weights: readonly string[]): Promise<AbsentKernel[]>
