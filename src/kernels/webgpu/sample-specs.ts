/** Writes the SampleSpecs of a step's rows for the device: words of the step buffer (wgsl/sample-io.wgsl), masks, adjustments of single tokens. */
import { changedTokens } from '../changed-tokens.ts'
import type { SampleRow, SampleSpec } from '../sample-spec.ts'
import { BANNED_LOGIT, GREEDY_TEMPERATURE, noiseKey } from '../sampling.ts'
import { createStorage, type GpuContext } from './context.ts'
import { RESULT_WORDS, type LogprobSlot } from './results.ts'
import { SPEC_WORDS } from './step-layout.ts'

const FLAG = { greedy: 1, mask: 2, topP: 4, filter: 8 } as const
/** Uploaded in place of -Infinity, because WGSL implementations may assume that no value is infinite. */
const BAN_DELTA = -3e38
const ENTRY_WORDS = 4
/** Marks the entry that is reserved for a pending token. */
const NO_TOKEN = -1

/** What was written: the number of entries, where each row's log-probabilities will be, and the words of results that are now taken. */
interface WrittenSpecs {
  readonly numEntries: number
  readonly logprobs: readonly (LogprobSlot | null)[]
  readonly resultWords: number
}

/** Uploads the sampling parameters of a step's rows. */
export class SampleSpecs {
  readonly #context: GpuContext
  readonly #onReplaced: () => void
  #masks: GPUBuffer
  #adjustments: GPUBuffer
  #entries = new Uint32Array(1024)
  #entryFloats = new Float32Array(this.#entries.buffer)
  #numEntries = 0
  readonly #key = new Uint32Array(2)

  /** @param onReplaced called after a buffer was replaced by a larger one: bind groups with the old one must be made again */
  constructor(context: GpuContext, onReplaced: () => void) {
    this.#context = context
    this.#onReplaced = onReplaced
    this.#masks = createStorage(context.device, 'masks', 16)
    this.#adjustments = createStorage(context.device, 'adjustments', 16)
  }

  get masks(): GPUBuffer {
    return this.#masks
  }

  get adjustments(): GPUBuffer {
    return this.#adjustments
  }

  /** Writes the specs of sample rows. @param positions positions of the step's rows @param resultWords words of the results that are taken already */
  write(rows: readonly SampleRow[], positions: Int32Array, vocab: number, resultWords: number): WrittenSpecs {
    const { step, device } = this.#context
    const { words, floats } = step.reserve('sampleSpecs', rows.length * SPEC_WORDS)
    const maskBytes = Math.ceil(vocab / 32) * 4
    if (rows.some(({ spec }) => spec.mask !== null)) this.#reserveMasks(rows.length * maskBytes, maskBytes)
    const logprobs: (LogprobSlot | null)[] = []
    let nextResult = resultWords
    this.#numEntries = 0
    for (const [index, { row, spec }] of rows.entries()) {
      const { temperature, topK, topP, minP, repetition, mask, pending } = spec
      const isGreedy = temperature < GREEDY_TEMPERATURE
      const firstEntry = this.#numEntries
      const numPenalized = this.#writeEntries(spec)
      noiseKey(spec.seed, spec.choice, positions[row]! + 1, this.#key)
      const at = index * SPEC_WORDS
      words[at] =
        (isGreedy ? FLAG.greedy : 0) |
        (mask === null ? 0 : FLAG.mask) |
        (topP < 1 ? FLAG.topP : 0) |
        (!isGreedy && hasFilter(spec, vocab) ? FLAG.filter : 0)
      floats[at + 1] = isGreedy ? 1 : 1 / temperature
      words[at + 2] = topK > 0 && topK < vocab ? topK : 0
      floats[at + 3] = topP
      floats[at + 4] = minP > 0 ? Math.log(minP) : BANNED_LOGIT
      words[at + 5] = this.#key[0]!
      words[at + 6] = this.#key[1]!
      floats[at + 7] = repetition?.penalty ?? 1
      floats[at + 8] = 1 / (repetition?.penalty ?? 1)
      words[at + 9] = firstEntry
      words[at + 10] = numPenalized
      words[at + 11] = this.#numEntries - firstEntry
      words[at + 12] = spec.logprobs
      words[at + 13] = pending?.row ?? -1
      floats[at + 14] = Math.max(pending?.delta ?? 0, BAN_DELTA)
      words[at + 15] = spec.logprobs < 0 ? 0 : nextResult
      logprobs.push(spec.logprobs < 0 ? null : { word: nextResult, topN: spec.logprobs })
      if (spec.logprobs >= 0) nextResult += RESULT_WORDS
      if (mask !== null) device.queue.writeBuffer(this.#masks, index * maskBytes, mask.slice(0, maskBytes / 4))
    }
    this.#upload()
    return { numEntries: this.#numEntries, logprobs, resultWords: nextResult }
  }

  #reserveMasks(bytes: number, maskBytes: number): void {
    if (this.#masks.size >= bytes) return
    this.#masks.destroy()
    this.#masks = createStorage(this.#context.device, 'masks', roomFor(bytes / maskBytes) * maskBytes)
    this.#onReplaced()
  }

  /** Writes the entries of a row, with one more where a token is pending. Returns how many entries have the repetition penalty. */
  #writeEntries(spec: SampleSpec): number {
    const { tokens, numPenalized, deltas, pendingDeltas } = changedTokens(spec)
    for (const [i, token] of tokens.entries()) this.#put(token, deltas[i]!, pendingDeltas[i]!)
    if (spec.pending !== null) this.#put(NO_TOKEN, 0, 0)
    return numPenalized
  }

  #put(token: number, delta: number, pendingDelta: number): void {
    const at = this.#numEntries++ * ENTRY_WORDS
    if (at + ENTRY_WORDS > this.#entries.length) {
      const grown = new Uint32Array(this.#entries.length * 2)
      grown.set(this.#entries)
      this.#entries = grown
      this.#entryFloats = new Float32Array(grown.buffer)
    }
    this.#entries[at] = token
    this.#entryFloats[at + 1] = Math.max(delta, BAN_DELTA)
    this.#entryFloats[at + 2] = Math.max(pendingDelta, BAN_DELTA)
  }

  #upload(): void {
    if (this.#numEntries === 0) return
    const { device } = this.#context
    const bytes = this.#numEntries * ENTRY_WORDS * 4
    if (this.#adjustments.size < bytes) {
      const size = Math.max(bytes, 2 * this.#adjustments.size)
      this.#adjustments.destroy()
      this.#adjustments = createStorage(device, 'adjustments', size)
      this.#onReplaced()
    }
    device.queue.writeBuffer(this.#adjustments, 0, this.#entries, 0, this.#numEntries * ENTRY_WORDS)
  }
}

/** Rows to allocate for `rows` rows: the next power of two. */
export function roomFor(rows: number): number {
  return 2 ** Math.ceil(Math.log2(rows))
}

/** Whether top-k, top-p or min-p can exclude tokens. */
export function hasFilter(spec: SampleSpec, vocab: number): boolean {
  return (spec.topK > 0 && spec.topK < vocab) || spec.topP < 1 || spec.minP > 0
}
