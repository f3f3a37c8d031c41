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
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)
    hash ^= hash >>> 15
    for (let slot = hash & this.#mask; ; slot = (slot + 1) & this.#mask) {
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

/** `"a b"` (transformers 4) or `["a", "b"]` (transformers 5). */
function splitMerge(merge: unknown): readonly [string, string] {
  if (Array.isArray(merge)) return [String(merge[0]), String(merge[1])]
  const text = String(merge)
  const cut = text.indexOf(' ', 1)
  return cut < 0 ? [text, ''] : [text.slice(0, cut), text.slice(cut + 1)]
}

/** SentencePiece's rule: of all neighbours whose union is a token, the pair whose union scores highest joins first. */
class ScoredRules implements MergeRules {
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
export interface ScoredVocabulary {
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

/** Waiting merges, the first to apply on top: a binary heap of places in the text, each with the rule that it had when it was put in. */
class MergeQueue {
  readonly #rules: MergeRules
  readonly #entries: { readonly rule: number; readonly rank: number; readonly left: number; readonly at: number }[] = []

  constructor(rules: MergeRules) {
    this.#rules = rules
  }

  #isBefore(i: number, j: number): boolean {
    const a = this.#entries[i]!
    const b = this.#entries[j]!
    return a.rank !== b.rank ? a.rank < b.rank : a.left !== b.left ? a.left < b.left : a.at < b.at
  }

  #swap(i: number, j: number): void {
    const entry = this.#entries[i]!
    this.#entries[i] = this.#entries[j]!
    this.#entries[j] = entry
  }

  push(rule: number, left: number, at: number): void {
    let i = this.#entries.push({ rule, rank: this.#rules.rank(rule), left, at }) - 1
    for (let parent = (i - 1) >> 1; i > 0 && this.#isBefore(i, parent); parent = (i - 1) >> 1) {
      this.#swap(i, parent)
      i = parent
    }
  }

  pop(): { readonly rule: number; readonly at: number } | undefined {
    if (this.#entries.length === 0) return undefined
    this.#swap(0, this.#entries.length - 1)
    const top = this.#entries.pop()
    for (let i = 0; ;) {
      let first = i
      for (const child of [2 * i + 1, 2 * i + 2]) {
        if (child < this.#entries.length && this.#isBefore(child, first)) first = child
      }
      if (first === i) return top
      this.#swap(i, first)
      i = first
    }
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
    for (let entry = queue.pop(); entry !== undefined; entry = queue.pop()) {
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
