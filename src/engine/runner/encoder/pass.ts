/** Runs whole texts on a device: token ids in, one pooled row per text out. */
import { createHash } from 'node:crypto'
import type { Backend, BackendInfo } from '../../../kernels/backend.ts'
import type { Pooling } from '../../../kernels/ops.ts'
import { loadDecoder } from '../decoder.ts'
import { chooseDevice, createBackend } from '../device.ts'
import { kvLayout } from '../memory-layout.ts'
import { tallying } from '../model-weights.ts'
import type { ModelRequest } from '../runner.ts'
import { specIdentity } from '../spec-identity.ts'
import { backendLimits, type BatchLimits, BLOCK_SIZE, blocksOf, stepInput, stepsOf } from './batches.ts'
import type { TextCheckpoint } from './checkpoint.ts'
import { encoderKvLayout, loadEncoder } from './encoder.ts'
import type { EncoderSpec } from './spec.ts'
import type { TokenRow } from './special-tokens.ts'

export interface PassRequest {
  readonly device: ModelRequest['device']
  /** Threads of the cpu backend; null: its default. */
  readonly threads: number | null
}

/** The most rows of a step, unless a single text has more. A step of this size takes the device a fraction of a second. */
const STEP_ROWS = { webgpu: 4096, cpu: 1024, reference: 256 } as const
const MAX_SEQUENCES = 64
/** The longest text that is served, in tokens: buffers have room for it, and the time of attention grows with its square. */
const MAX_TOKENS = 8192

/** Runs tokenized texts in batches. */
export class TextPass {
  readonly info: BackendInfo
  readonly maxTokens: number
  /** Identifies the weights: 12 hexadecimal digits. */
  readonly digest: string
  readonly #backend: Backend
  readonly #limits: BatchLimits
  readonly #forward: () => void
  readonly #placeOf: (position: number, segment: number) => number

  private constructor(parts: {
    readonly backend: Backend
    readonly limits: BatchLimits
    readonly digest: string
    readonly forward: () => void
    readonly placeOf: (position: number, segment: number) => number
  }) {
    this.#backend = parts.backend
    this.#limits = parts.limits
    this.#forward = parts.forward
    this.#placeOf = parts.placeOf
    this.info = parts.backend.info
    this.maxTokens = parts.limits.maxTokens
    this.digest = parts.digest
  }

  /** Loads the weights. @throws ModelError; after a failure nothing but the checkpoint stays open */
  static async load(checkpoint: TextCheckpoint, pooling: Pooling, request: PassRequest): Promise<TextPass> {
    const kind = await chooseDevice(request.device)
    const { modules, spec } = checkpoint
    const ofModel = checkpoint.kind === 'encoder' ? checkpoint.spec.maxTokens : checkpoint.spec.maxPositions
    const maxTokens = Math.min(modules.maxTokens ?? ofModel, ofModel, MAX_TOKENS)
    const limits = { maxTokens, maxRows: Math.max(maxTokens, stepRows(checkpoint, kind)), maxSequences: MAX_SEQUENCES }
    const backend = await createBackend(kind, { limits: backendLimits(limits), traceKernels: false }, request)
    try {
      const tally = { bytes: 0, hash: createHash('sha256').update(specIdentity(spec)) }
      const source = tallying(checkpoint.source, tally)
      const common = { backend, limits }
      if (checkpoint.kind === 'encoder') {
        const encoder = await loadEncoder(backend, checkpoint.spec, source, pooling)
        backend.createKvCache(encoderKvLayout(checkpoint.spec, blocksOf(limits), BLOCK_SIZE))
        await backend.ready()
        const digest = tally.hash.digest('hex').slice(0, 12)
        const placeOf = placesFor(checkpoint.spec)
        return new TextPass({ ...common, digest, forward: () => encoder.forward(), placeOf })
      }
      const decoder = await loadDecoder(backend, checkpoint.spec, source, { isSinglePass: true })
      backend.createKvCache(kvLayout(checkpoint.spec, blocksOf(limits), BLOCK_SIZE, true))
      await backend.ready()
      const digest = tally.hash.digest('hex').slice(0, 12)
      return new TextPass({ ...common, digest, forward: () => decoder.pool(pooling), placeOf: () => 0 })
    } catch (error) {
      await backend.close()
      throw error
    }
  }

  /** The pooled row [hidden] of each text, in the order of the texts. Texts have at most `maxTokens` tokens. */
  async run(texts: readonly TokenRow[]): Promise<readonly Float32Array[]> {
    const rows: Float32Array[] = []
    for (const indexes of stepsOf(texts, this.#limits)) {
      const sequences = indexes.map((index) => texts[index]!)
      this.#backend.beginStep(stepInput(sequences, this.#limits, this.#placeOf))
      this.#forward()
      const { pooled } = await this.#backend.endStep()
      if (pooled === null) throw new Error('the step gave no pooled rows')
      const cols = pooled.length / indexes.length
      indexes.forEach((index, i) => (rows[index] = pooled.slice(i * cols, (i + 1) * cols)))
    }
    return rows
  }

  close(): Promise<void> {
    return this.#backend.close()
  }
}

/** Disentangled attention keeps thousands of scores per row, so that its steps are smaller. */
const stepRows = (checkpoint: TextCheckpoint, kind: keyof typeof STEP_ROWS): number =>
  checkpoint.kind === 'encoder' && checkpoint.spec.relative?.kind === 'disentangled'
    ? Math.min(1024, STEP_ROWS[kind])
    : STEP_ROWS[kind]

function placesFor({ positions, numSegments }: EncoderSpec): (position: number, segment: number) => number {
  const { count, offset } = positions ?? { count: 1, offset: 0 }
  const isPlaced = positions !== null
  return (position, segment) =>
    Math.min(segment, Math.max(0, numSegments - 1)) * count + (isPlaced ? position + offset : 0)
}
