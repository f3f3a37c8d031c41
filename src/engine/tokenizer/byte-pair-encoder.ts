/**
 * Byte-pair merging on token ids in typed arrays. The library's own model keeps a map of strings per merge, which takes seconds and hundreds of
 * megabytes for a vocabulary of 262,144 tokens.
 */

/** Which neighbouring tokens merge, into which token, and in which order. */
interface MergeRules {
  /** The rule of two neighbours, or -1. */
  find(left: number, right: number): number
  /** Rules of smaller rank are applied first; among equals the smaller left token, then the leftmost place. */
  rank(rule: number): number
  /** The merged token. */
  result(rule: number): number
}

/** Rules from a list of merges, in an open-addressed hash table that is a quarter to a half full. */
class ListedRules implements MergeRules {
  readonly #mask: number
  /** Three numbers per slot: left, right, result. Left is -1 in an empty slot. */
  readonly #slots: Int32Array
  readonly #ranks: Int32Array

  /** @param merges pairs as in tokenizer.json. Pairs with a token outside the vocabulary never apply and are dropped */
  constructor(merges: readonly unknown[], ids: ReadonlyMap<string, number>) {
    let capacity = 16
    while (capacity < 2 * merges.length) capacity *= 2
    this.#mask = capacity - 1
    this.#slots = new Int32Array(3 * capacity).fill(-1)
    this.#ranks = new Int32Array(capacity)
    for (const [rank, merge] of merges.entries()) {
      const [head, tail] = splitMerge(merge)
      const left = ids.get(head)
      const right = ids.get(tail)
      const result = ids.get(head + tail)
      if (left === undefined || right === undefined || result === undefined) continue
      const slot = this.#slot(left, right)
      // The last of two equal pairs wins, as in a map.
      this.#slots[3 * slot] = left
      this.#slots[3 * slot + 1] = right
      this.#slots[3 * slot + 2] = result
      this.#ranks[slot] = rank
    }
  }

  #slot(left: number, right: number): number {
    for (let slot = hashPair(left, right) & this.#mask; ; slot = (slot + 1) & this.#mask) {
      const found = this.#slots[3 * slot]!
      if (found === -1 || (found === left && this.#slots[3 * slot + 1] === right)) return slot
    }
  }

  find(left: number, right: number): number {
    const slot = this.#slot(left, right)
    return this.#slots[3 * slot] === -1 ? -1 : slot
  }

  rank(rule: number): number {
    return this.#ranks[rule]!
  }

  result(rule: number): number {
    return this.#slots[3 * rule + 2]!
  }
}

function hashPair(left: number, right: number): number {
  const hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)
  return hash ^ (hash >>> 15)
}

/** `"a b"` (transformers 4) or `["a", "b"]` (transformers 5). */
function splitMerge(merge: unknown): readonly [string, string] {
  if (Array.isArray(merge)) return [String(merge[0]), String(merge[1])]
  const text = String(merge)
  const cut = text.indexOf(' ', 1)
  return cut < 0 ? [text, ''] : [text.slice(0, cut), text.slice(cut + 1)]
}

/** Pairs whose union is cached; a power of two. */
const NUM_KNOWN_PAIRS = 1 << 16

/** SentencePiece's rule: among neighbours whose union is a token, the pair whose union has the highest score merges first. */
class ScoredRules implements MergeRules {
  /** Three numbers per slot: left, right, union (-1: none) of the last pair in it. A cache, because joining and looking up strings is slow. */
  readonly #known = new Int32Array(3 * NUM_KNOWN_PAIRS).fill(-1)
  readonly #tokens: readonly string[]
  readonly #ids: ReadonlyMap<string, number>
  readonly #canMerge: (id: number) => boolean
  readonly #scores: readonly number[]

  constructor({ tokens, scores, canMerge }: ScoredVocabulary, ids: ReadonlyMap<string, number>) {
    this.#tokens = tokens
    this.#ids = ids
    this.#canMerge = canMerge
    this.#scores = scores
  }

  find(left: number, right: number): number {
    const slot = 3 * (hashPair(left, right) & (NUM_KNOWN_PAIRS - 1))
    if (this.#known[slot] === left && this.#known[slot + 1] === right) return this.#known[slot + 2]!
    const union = this.#union(left, right)
    this.#known[slot] = left
    this.#known[slot + 1] = right
    this.#known[slot + 2] = union
    return union
  }

  #union(left: number, right: number): number {
    if (!this.#canMerge(left) || !this.#canMerge(right)) return -1
    const union = this.#ids.get(this.#tokens[left]! + this.#tokens[right]!)
    return union === undefined || !this.#canMerge(union) ? -1 : union
  }

  rank(rule: number): number {
    return -this.#scores[rule]!
  }

  result(rule: number): number {
    return rule
  }
}

/** The vocabulary of SentencePiece's BPE: no list of merges, a score for each token instead. */
interface ScoredVocabulary {
  readonly tokens: readonly string[]
  readonly scores: readonly number[]
  /** Control, byte and unknown pieces take part in no merge. */
  readonly canMerge: (id: number) => boolean
}

/** A vocabulary and its merges. */
export interface BpeVocabulary {
  /** By id; holes are ids without a token. */
  readonly tokens: readonly string[]
  readonly merges: readonly unknown[] | Omit<ScoredVocabulary, 'tokens'>
}

/**
 * Pending merges: a binary heap of places in the text, each with its rule at the time of the push; the first to apply is on top. Typed arrays,
 * because a text without a space is one word with an entry per character.
 */
class MergeQueue {
  readonly #rules: MergeRules
  #size = 0
  #ranks = new Float64Array(16)
  /** Four numbers per entry: left token, place, rule, unused. */
  #entries = new Int32Array(4 * 16)

  constructor(rules: MergeRules) {
    this.#rules = rules
  }

  push(rule: number, left: number, at: number): void {
    if (this.#size === this.#ranks.length) this.#grow()
    const rank = this.#rules.rank(rule)
    let i = this.#size++
    while (i > 0) {
      const parent = (i - 1) >> 1
      if (!this.#isAfter(parent, rank, left, at)) break
      this.#move(parent, i)
      i = parent
    }
    this.#put(i, rank, left, at, rule)
  }

  /** Removes the top and returns its place and rule; null if the heap is empty. */
  pop(): { readonly rule: number; readonly at: number } | null {
    if (this.#size === 0) return null
    const entries = this.#entries
    const top = { at: entries[1]!, rule: entries[2]! }
    const last = --this.#size
    const rank = this.#ranks[last]!
    const [left, at, rule] = [entries[4 * last]!, entries[4 * last + 1]!, entries[4 * last + 2]!]
    // The last entry sinks from the top to where it belongs.
    let i = 0
    for (;;) {
      let child = 2 * i + 1
      if (child >= last) break
      const other = child + 1
      if (other < last && this.#isAfter(child, this.#ranks[other]!, entries[4 * other]!, entries[4 * other + 1]!)) {
        child = other
      }
      if (this.#isAfter(child, rank, left, at)) break
      this.#move(child, i)
      i = child
    }
    this.#put(i, rank, left, at, rule)
    return top
  }

  /** Whether entry `i` applies after one of this rank, left token and place. */
  #isAfter(i: number, rank: number, left: number, at: number): boolean {
    const own = this.#ranks[i]!
    if (own !== rank) return own > rank
    const ownLeft = this.#entries[4 * i]!
    return ownLeft !== left ? ownLeft > left : this.#entries[4 * i + 1]! > at
  }

  #move(from: number, to: number): void {
    this.#ranks[to] = this.#ranks[from]!
    this.#entries[4 * to] = this.#entries[4 * from]!
    this.#entries[4 * to + 1] = this.#entries[4 * from + 1]!
    this.#entries[4 * to + 2] = this.#entries[4 * from + 2]!
  }

  #put(i: number, rank: number, left: number, at: number, rule: number): void {
    this.#ranks[i] = rank
    this.#entries[4 * i] = left
    this.#entries[4 * i + 1] = at
    this.#entries[4 * i + 2] = rule
  }

  #grow(): void {
    const [ranks, entries] = [this.#ranks, this.#entries]
    this.#ranks = new Float64Array(2 * ranks.length)
    this.#ranks.set(ranks)
    this.#entries = new Int32Array(2 * entries.length)
    this.#entries.set(entries)
  }
}

/** Limits on the number and length of words whose pieces are cached. */
const MAX_KNOWN_WORDS = 10_000
const MAX_KNOWN_CHARACTERS = 256

const utf8 = new TextEncoder()

/** The fields of `model` in tokenizer.json besides vocabulary and merges. */
interface BpeFlags {
  readonly unk_token?: unknown
  readonly fuse_unk?: unknown
  readonly byte_fallback?: unknown
  readonly ignore_merges?: unknown
}

/** Splits words into the tokens of a vocabulary. */
export class BytePairEncoder {
  /** By id; holes are ids without a token. */
  readonly tokens: string[]
  readonly ids = new Map<string, number>()
  readonly #rules: MergeRules
  readonly #unknown: string | null
  readonly #flags: BpeFlags
  /** The least recently used first. */
  readonly #known = new Map<string, readonly string[]>()

  constructor(flags: BpeFlags, { tokens, merges }: BpeVocabulary) {
    this.tokens = [...tokens]
    for (let id = 0; id < this.tokens.length; id++) {
      const token = this.tokens[id]
      if (token !== undefined) this.ids.set(token, id)
    }
    this.#flags = flags
    this.#unknown = typeof flags.unk_token === 'string' ? flags.unk_token : null
    this.#rules =
      'scores' in merges ? new ScoredRules({ tokens, ...merges }, this.ids) : new ListedRules(merges, this.ids)
  }

  /** The id of the unknown token. */
  get unknownId(): number | undefined {
    return this.#unknown === null ? undefined : this.ids.get(this.#unknown)
  }

  /** The tokens of words, in the spelling of the vocabulary. */
  encode(words: readonly string[]): string[] {
    const tokens: string[] = []
    for (const word of words) {
      if (this.#flags.ignore_merges === true && this.ids.has(word)) tokens.push(word)
      else for (const piece of this.#pieces(word)) this.#push(piece, tokens)
    }
    return tokens
  }

  /** Appends a piece. One that is not a token is spelled in bytes, or unknown. */
  #push(piece: string, tokens: string[]): void {
    if (this.ids.has(piece)) {
      tokens.push(piece)
      return
    }
    if (this.#flags.byte_fallback === true) {
      const bytes = Array.from(utf8.encode(piece), (byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
      if (bytes.every((byte) => this.ids.has(byte))) {
        tokens.push(...bytes)
        return
      }
    }
    if (this.#unknown === null) return
    if (this.#flags.fuse_unk !== true || tokens.at(-1) !== this.#unknown) tokens.push(this.#unknown)
  }

  #pieces(word: string): readonly string[] {
    const known = this.#known.get(word)
    const pieces = known ?? this.#merge([...word])
    if (word.length > MAX_KNOWN_CHARACTERS) return pieces
    this.#known.delete(word)
    this.#known.set(word, pieces)
    if (this.#known.size > MAX_KNOWN_WORDS) {
      const [oldest] = this.#known.keys()
      if (oldest !== undefined) this.#known.delete(oldest)
    }
    return pieces
  }

  /** Merges characters into tokens by the rules. Characters outside the vocabulary stay unchanged. */
  #merge(characters: readonly string[]): string[] {
    const rules = this.#rules
    const count = characters.length
    const ids = Int32Array.from(characters, (character) => this.ids.get(character) ?? -1)
    const previous = Int32Array.from(ids, (_, i) => i - 1)
    const next = Int32Array.from(ids, (_, i) => (i + 1 < count ? i + 1 : -1))
    const queue = new MergeQueue(rules)
    const offer = (at: number): void => {
      const other = at < 0 ? -1 : next[at]!
      if (other < 0 || ids[at]! < 0 || ids[other]! < 0) return
      const rule = rules.find(ids[at]!, ids[other]!)
      if (rule >= 0) queue.push(rule, ids[at]!, at)
    }
    for (let i = 0; i < count; i++) offer(i)
    for (let entry = queue.pop(); entry !== null; entry = queue.pop()) {
      const { at, rule } = entry
      const other = next[at]!
      // An entry is out of date if one of its two tokens has been merged since.
      if (other < 0 || ids[at]! < 0 || ids[other]! < 0 || rules.find(ids[at]!, ids[other]!) !== rule) continue
      ids[at] = rules.result(rule)
      ids[other] = -1
      next[at] = next[other]!
      if (next[at] >= 0) previous[next[at]] = at
      offer(previous[at]!)
      offer(at)
      // A token that was merged into its left neighbour begins no pair.
      next[other] = -1
    }
    const pieces: string[] = []
    for (let at = 0; at >= 0 && at < count; at = next[at]!) {
      pieces.push(ids[at]! < 0 ? characters[at]! : this.tokens[ids[at]!]!)
    }
    return pieces
  }
}
