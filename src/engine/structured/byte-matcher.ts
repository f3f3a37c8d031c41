/**
 * Follows bytes through a network. The set of possible states, each with its stack of calls, is one state of an automaton that is built on demand.
 * States are cached, so that a known place in a text costs nothing.
 */
import type { Network } from './byte-grammar.ts'
import type { TokenTree } from './token-tree.ts'
import { Unenforceable } from './unenforceable.ts'

/** Limit on the configurations of one place. A grammar that is more ambiguous is refused. */
const MAX_CONFIGURATIONS = 20_000
/** Limits on cached places and masks. Above them the cache is cleared. */
const MAX_PLACES = 20_000
const MAX_MASK_WORDS = 4_000_000
/** Stacks that texts may leave behind, some 100 bytes each. Each nested part of a text may add some, and they cannot be removed one by one. */
const MAX_STACKS = 1 << 16
/** Limit on the configurations for one mask: less than a second of work. */
const MAX_WORK = 1_500_000

/** A grammar that cannot be followed in bounded time and memory. */
class TooAmbiguous extends Unenforceable {
  override readonly name = 'TooAmbiguous'
}

/** A place in a text. */
export interface MatchState {
  /** Pairs of a state that reads bytes and a stack. */
  readonly configurations: Float64Array
  /** The text may end here. */
  readonly isEnd: boolean
  /** The next place for each class of bytes; undefined: not computed yet, null: none. */
  readonly next: (MatchState | null | undefined)[]
  mask: Uint32Array | null
}

/** A configuration is state * STACKS + stack, so there are fewer than 2^26 stacks. */
const STACKS = 2 ** 26
const EMPTY_STACK = 0

/** Follows a network byte by byte and computes masks of allowed tokens. States are cached. */
export class ByteMatcher {
  readonly #network: Network
  /** The class of each byte. Bytes that no edge distinguishes share a class. */
  readonly #classes: Uint8Array
  readonly #places = new Map<string, MatchState>()
  /** Stacks by their top and the stack below it. */
  readonly #stacks = new Map<number, number>()
  #stackTops: number[] = [-1]
  #stackRests: number[] = [0]
  #numMaskWords = 0
  #work = 0

  constructor(network: Network) {
    this.#network = network
    this.#classes = classesOf(network)
  }

  /** The matcher for another text: this one, or a new one of the same grammar if earlier texts have left too many stacks behind. */
  forNextText(): ByteMatcher {
    return this.#stackTops.length <= MAX_STACKS ? this : new ByteMatcher(this.#network)
  }

  /** The place at the beginning of a text. @throws TooAmbiguous */
  start(): MatchState {
    return this.#place([this.#network.start * STACKS + EMPTY_STACK])
  }

  /** The place after a byte; null: the byte is not allowed. @throws TooAmbiguous */
  step(place: MatchState, byte: number): MatchState | null {
    const own = this.#classes[byte] ?? 0
    const known = place.next[own]
    if (known !== undefined) return known
    const { byteFirst, byteEdges } = this.#network
    const reached: number[] = []
    for (const configuration of place.configurations) {
      const state = Math.floor(configuration / STACKS)
      const stack = configuration - state * STACKS
      for (let edge = byteFirst[state] ?? 0; edge < (byteFirst[state + 1] ?? 0); edge++) {
        const at = edge * 3
        if ((byteEdges[at] ?? 0) <= byte && byte <= (byteEdges[at + 1] ?? 0))
          reached.push((byteEdges[at + 2] ?? 0) * STACKS + stack)
      }
    }
    const found = reached.length === 0 ? null : this.#place(reached)
    const next = found !== null && found.configurations.length === 0 && !found.isEnd ? null : found
    place.next[own] = next
    return next
  }

  /** Bit t of word t >> 5 set: token t may come next; end tokens where the text may end. u32[ceil(vocab / 32)] */
  mask(place: MatchState, tree: TokenTree, numTokens: number, endTokenIds: readonly number[]): Uint32Array {
    if (place.mask !== null) return place.mask
    this.#work = 0
    const mask = new Uint32Array(Math.ceil(numTokens / 32))
    const { byte, depth, end, token, sameBytes } = tree
    const places: MatchState[] = [place]
    for (let node = 0; node < byte.length;) {
      const at = depth[node] ?? 0
      const from = places[at]
      const to = from === undefined ? null : this.step(from, byte[node] ?? 0)
      if (to === null) {
        node = end[node] ?? byte.length
        continue
      }
      places[at + 1] = to
      for (let id = token[node] ?? -1; id >= 0; id = sameBytes[id] ?? -1)
        mask[id >> 5] = (mask[id >> 5] ?? 0) | (1 << (id & 31))
      node++
    }
    if (place.isEnd) for (const id of endTokenIds) mask[id >> 5] = (mask[id >> 5] ?? 0) | (1 << (id & 31))
    this.#numMaskWords += mask.length
    place.mask = mask
    if (this.#numMaskWords > MAX_MASK_WORDS || this.#places.size > MAX_PLACES) this.#forget()
    return mask
  }

  /** Clears the cache. Sequences keep the places that they are at. */
  #forget(): void {
    for (const place of this.#places.values()) {
      place.next.length = 0
      place.mask = null
    }
    this.#places.clear()
    this.#numMaskWords = 0
  }

  /** The place with these configurations, and with all that they reach without reading a byte. */
  #place(reached: readonly number[]): MatchState {
    const { byteFirst, freeFirst, freeEdges, callFirst, callEdges, ends } = this.#network
    const seen = new Set(reached)
    const reading: number[] = []
    let isEnd = false
    // The iteration includes elements that are added meanwhile.
    for (const configuration of seen) {
      if (seen.size > MAX_CONFIGURATIONS || ++this.#work > MAX_WORK)
        throw new TooAmbiguous('the grammar can be read in too many ways')
      const state = Math.floor(configuration / STACKS)
      const stack = configuration - state * STACKS
      if ((byteFirst[state] ?? 0) < (byteFirst[state + 1] ?? 0)) reading.push(configuration)
      if (ends[state] === 1) {
        if (stack === EMPTY_STACK) isEnd = true
        else seen.add((this.#stackTops[stack] ?? 0) * STACKS + (this.#stackRests[stack] ?? 0))
      }
      for (let edge = freeFirst[state] ?? 0; edge < (freeFirst[state + 1] ?? 0); edge++)
        seen.add((freeEdges[edge] ?? 0) * STACKS + stack)
      for (let edge = callFirst[state] ?? 0; edge < (callFirst[state + 1] ?? 0); edge++)
        seen.add((callEdges[edge * 2] ?? 0) * STACKS + this.#push(callEdges[edge * 2 + 1] ?? 0, stack))
    }
    const configurations = Float64Array.from(reading).sort()
    const key = `${isEnd ? 'e' : ''}${configurations.join()}`
    const known = this.#places.get(key)
    if (known !== undefined) return known
    const made: MatchState = { configurations, isEnd, next: [], mask: null }
    this.#places.set(key, made)
    return made
  }

  /** Pushes a return state. One that would only return again is dropped, so that recursive lists keep a flat stack. */
  #push(state: number, stack: number): number {
    const { byteFirst, freeFirst, callFirst, ends } = this.#network
    const isOnlyEnd = ends[state] === 1 && byteFirst[state] === byteFirst[state + 1] && freeFirst[state] === freeFirst[state + 1] && callFirst[state] === callFirst[state + 1] // prettier-ignore
    if (isOnlyEnd) return stack
    const key = state * STACKS + stack
    const known = this.#stacks.get(key)
    if (known !== undefined) return known
    if (this.#stackTops.length >= STACKS - 1) throw new TooAmbiguous('the grammar is nested too deeply')
    this.#stackTops.push(state)
    this.#stackRests.push(stack)
    this.#stacks.set(key, this.#stackTops.length - 1)
    return this.#stackTops.length - 1
  }
}

/** Classes of bytes by the edges that accept them. */
function classesOf({ byteEdges }: Network): Uint8Array {
  const borders = new Set<number>([0])
  for (let at = 0; at < byteEdges.length; at += 3) {
    borders.add(byteEdges[at] ?? 0)
    borders.add((byteEdges[at + 1] ?? 0) + 1)
  }
  const classes = new Uint8Array(256)
  let own = -1
  for (let byte = 0; byte < 256; byte++) {
    if (borders.has(byte)) own++
    classes[byte] = own
  }
  return classes
}
