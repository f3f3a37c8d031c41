/**
 * Byte-pair merging on token ids in typed arrays. The library's own model keeps a map of strings for each merge: seconds and hundreds of
 * megabytes for vocabularies of 262,144 pieces.
 */

/** Which neighbouring tokens join, into what, and in which order. */
interface MergeRules {
  /** The rule of two neighbours, or -1. */
  find(left: number, right: number): number
  /** Rules of smaller rank are applied first; among equals the smaller left token, then the leftmost place. */
  rank(rule: number): number
  /** The token that the two become. */
  result(rule: number): number
}

/** Rules listed in order: an open-addressed hash table, a quarter to a half full. */
class ListedRules implements MergeRules {
  readonly #mask: number
  /** Three numbers a slot: left, right, result. Left is -1 where the slot is empty. */
  readonly #slots: Int32Array
  readonly #ranks: Int32Array

  /** @param merges pairs as tokenizer.json has them; those that name a token outside the vocabulary can never apply and are left out */
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
      // Of two equal pairs the last counts, as in a map.
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

/** Pairs whose union is remembered; a power of two. */
const NUM_KNOWN_PAIRS = 1 << 16

/** SentencePiece's rule: of all neighbours whose union is a token, the pair whose union scores highest joins first. */
class ScoredRules implements MergeRules {
  /** Three numbers a slot, left, right and union (-1: none), the last pair of those that fall into it: strings are joined and looked up slowly. */
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
 * Waiting merges, the first to apply on top: a binary heap of places in the text, each with the rule that it had when it was put in. In typed
 * arrays: a text without a space is one word, with as many entries as it has characters.
 */
class MergeQueue {
  readonly #rules: MergeRules
  #size = 0
  #ranks = new Float64Array(16)
  /** Four numbers an entry: left token, place, rule, and nothing. */
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

  /** Takes the top off: its place and its rule; null when there is none. */
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

/** Words whose pieces are remembered, and how long they may be. */
const MAX_KNOWN_WORDS = 10_000
const MAX_KNOWN_CHARACTERS = 256

const utf8 = new TextEncoder()

/** What tokenizer.json's `model` says besides vocabulary and merges. */
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

  /** The id that stands for what the vocabulary lacks. */
  get unknownId(): number | undefined {
    return this.#unknown === null ? undefined : this.ids.get(this.#unknown)
  }

  /** The tokens of words, as the vocabulary spells them. */
  encode(words: readonly string[]): string[] {
    const tokens: string[] = []
    for (const word of words) {
      if (this.#flags.ignore_merges === true && this.ids.has(word)) tokens.push(word)
      else for (const piece of this.#pieces(word)) this.#push(piece, tokens)
    }
    return tokens
  }

  /** A piece that is no token is spelled in bytes, or unknown. */
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

  /** Characters become the tokens that the rules make of them; characters outside the vocabulary stay as they are. */
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
      // An entry is out of date when one of its two tokens has joined another since.
      if (other < 0 || ids[at]! < 0 || ids[other]! < 0 || rules.find(ids[at]!, ids[other]!) !== rule) continue
      ids[at] = rules.result(rule)
      ids[other] = -1
      next[at] = next[other]!
      if (next[at] >= 0) previous[next[at]] = at
      offer(previous[at]!)
      offer(at)
      // What was joined into its left neighbour begins no pair any more.
      next[other] = -1
    }
    const pieces: string[] = []
    for (let at = 0; at >= 0 && at < count; at = next[at]!) {
      pieces.push(ids[at]! < 0 ? characters[at]! : this.tokens[ids[at]!]!)
    }
    return pieces
  }
}
