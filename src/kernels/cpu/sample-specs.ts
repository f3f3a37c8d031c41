/** The SampleSpecs of a step's rows in shared memory, as assembly/sample.ts reads them. */
import { changedTokens } from '../changed-tokens.ts'
import type { SampleRow } from '../sample-spec.ts'
import { BANNED_LOGIT, GREEDY_TEMPERATURE, noiseKey } from '../sampling.ts'
import type { Arena } from './arena.ts'

const WORDS = 16
/** Offsets of the fields of SampleSpec in assembly/sample.ts, in words; word 0 is `kind`. */
const SPEC = {
  topK: 1,
  topP: 2,
  inverseTemperature: 3,
  minZ: 4,
  key0: 5,
  key1: 6,
  penalty: 7,
  inversePenalty: 8,
  entries: 9,
  numPenalized: 10,
  numEntries: 11,
  mask: 12,
} as const
const GREEDY = 1
const DRAW = 2
/** More than any vocabulary: larger ones mean the same and would not fit a word. */
const MAX_TOP_K = 2 ** 31 - 1
/** Words of a token that is penalised or adjusted. */
const ENTRY_WORDS = 2

/** Shared memory that grows in powers of two: a smaller, earlier allocation is not freed. */
class Growing {
  readonly #arena: Arena
  readonly #purpose: string
  #numWords = 0
  address = 0
  words: Int32Array = new Int32Array(0)
  floats: Float32Array = new Float32Array(0)

  constructor(arena: Arena, purpose: string) {
    this.#arena = arena
    this.#purpose = purpose
  }

  /** Makes room; what was written before is lost where there was too little. */
  reserve(numWords: number): void {
    if (numWords <= this.#numWords) return
    this.#numWords = 2 ** Math.ceil(Math.log2(numWords))
    this.address = this.#arena.allocate(this.#numWords * 4, this.#purpose)
    this.words = this.#arena.i32(this.address, this.#numWords)
    this.floats = this.#arena.f32(this.address, this.#numWords)
  }
}

/** Sampling parameters of a step's rows, written once per step. */
export class SampleSpecs {
  readonly #specs: Growing
  readonly #entries: Growing
  readonly #masks: Growing
  readonly #key = new Uint32Array(2)

  constructor(arena: Arena, maxRows: number) {
    this.#specs = new Growing(arena, 'sampling parameters')
    this.#specs.reserve(Math.max(1, maxRows) * WORDS)
    this.#entries = new Growing(arena, 'penalties')
    this.#masks = new Growing(arena, 'masks')
  }

  get address(): number {
    return this.#specs.address
  }

  /** Writes one spec per row. The sampled token's position is `positions[row] + 1`. `pending` must be resolved before. */
  write(rows: readonly SampleRow[], positions: ArrayLike<number>, vocab: number): void {
    const { words, floats } = this.#specs
    const maskWords = Math.ceil(vocab / 32)
    const changes = rows.map(({ spec }) => changedTokens(spec))
    this.#entries.reserve(changes.reduce((sum, { tokens }) => sum + tokens.length, 0) * ENTRY_WORDS)
    this.#masks.reserve(rows.filter(({ spec }) => spec.mask !== null).length * maskWords)
    let numEntries = 0
    let numMasks = 0
    for (const [i, { row, spec }] of rows.entries()) {
      const { temperature, topK, topP, minP, seed, choice, mask, repetition } = spec
      const at = i * WORDS
      const isGreedy = temperature < GREEDY_TEMPERATURE
      noiseKey(seed, choice, positions[row]! + 1, this.#key)
      words[at] = isGreedy ? GREEDY : DRAW
      words[at + SPEC.topK] = Math.min(topK, MAX_TOP_K)
      floats[at + SPEC.topP] = topP
      floats[at + SPEC.inverseTemperature] = isGreedy ? 1 : 1 / temperature
      floats[at + SPEC.minZ] = Math.max(minP > 0 ? Math.log(minP) : -Infinity, BANNED_LOGIT)
      words[at + SPEC.key0] = this.#key[0]!
      words[at + SPEC.key1] = this.#key[1]!
      floats[at + SPEC.penalty] = repetition?.penalty ?? 1
      floats[at + SPEC.inversePenalty] = 1 / (repetition?.penalty ?? 1)
      const { tokens, numPenalized, deltas } = changes[i]!
      words[at + SPEC.entries] = this.#entries.address + numEntries * ENTRY_WORDS * 4
      words[at + SPEC.numPenalized] = numPenalized
      words[at + SPEC.numEntries] = tokens.length
      for (const [entry, token] of tokens.entries()) {
        this.#entries.words[numEntries * ENTRY_WORDS] = token
        this.#entries.floats[numEntries++ * ENTRY_WORDS + 1] = deltas[entry]!
      }
      words[at + SPEC.mask] = mask === null ? 0 : this.#masks.address + numMasks * maskWords * 4
      if (mask !== null) this.#masks.words.set(mask.subarray(0, maskWords), numMasks++ * maskWords)
    }
  }
}
