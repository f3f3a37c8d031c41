/** Sets of Unicode characters, and their UTF-8 bytes. Pure data. */

/** Sorted, disjoint, inclusive ranges of code points. */
export type CodePoints = readonly (readonly [from: number, to: number])[]

/** Every character of Unicode: all code points but surrogates, which UTF-8 cannot hold. */
export const EVERY: CodePoints = [
  [0, 0xd7ff],
  [0xe000, 0x10ffff],
]
export const DIGIT: CodePoints = [[0x30, 0x39]]
export const WORD: CodePoints = [[0x30, 0x39], [0x41, 0x5a], [0x5f, 0x5f], [0x61, 0x7a]] // prettier-ignore
/** White space and line ends as ECMAScript's `\s` has them. */
export const WHITE_SPACE: CodePoints = [[0x09, 0x0d], [0x20, 0x20], [0xa0, 0xa0], [0x1680, 0x1680], [0x2000, 0x200a], [0x2028, 0x2029], [0x202f, 0x202f], [0x205f, 0x205f], [0x3000, 0x3000], [0xfeff, 0xfeff]] // prettier-ignore
const LINE_END: CodePoints = [[0x0a, 0x0a], [0x0d, 0x0d], [0x2028, 0x2029]] // prettier-ignore
/** What `.` stands for. */
export const ANY_BUT_LINE_END = difference(EVERY, LINE_END)

/** The set of one character. */
export function singleton(code: number): CodePoints {
  return [[code, code]]
}

/** Ranges in any order, overlapping or not, as a set. Surrogates are left out. */
export function codePoints(ranges: CodePoints): CodePoints {
  const merged: [number, number][] = []
  for (const [from, to] of ranges.toSorted(([a], [b]) => a - b)) {
    const last = merged.at(-1)
    if (last !== undefined && from <= last[1] + 1) last[1] = Math.max(last[1], to)
    else merged.push([from, to])
  }
  return intersection(merged, EVERY)
}

/** Characters that are in both sets. */
export function intersection(a: CodePoints, b: CodePoints): CodePoints {
  const common: [number, number][] = []
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    const [fromA, toA] = a[i] ?? [0, 0]
    const [fromB, toB] = b[j] ?? [0, 0]
    if (Math.max(fromA, fromB) <= Math.min(toA, toB)) common.push([Math.max(fromA, fromB), Math.min(toA, toB)])
    if (toA < toB) i++
    else j++
  }
  return common
}

/** Characters that are not in the set, surrogates aside. */
export function complement(set: CodePoints): CodePoints {
  const gaps: [number, number][] = []
  let next = 0
  for (const [from, to] of set) {
    if (from > next) gaps.push([next, from - 1])
    next = to + 1
  }
  if (next <= 0x10ffff) gaps.push([next, 0x10ffff])
  return intersection(gaps, EVERY)
}

/** Characters of the first set that are not in the second. */
export function difference(set: CodePoints, removed: CodePoints): CodePoints {
  return intersection(set, complement(removed))
}

/** Characters beyond ASCII that are looked up one by one, at most. */
const MAX_CASED = 5000

/** The set with the upper and lower case of each letter. For large ranges, only of ASCII letters. */
export function anyCase(set: CodePoints): CodePoints {
  const added: [number, number][] = []
  for (const [from, to] of set) {
    if (to - from > MAX_CASED) {
      for (const [first, by] of [[0x41, 0x20], [0x61, -0x20]] as const) {
        const [low, high] = [Math.max(from, first), Math.min(to, first + 25)]
        if (low <= high) added.push([low + by, high + by])
      } // prettier-ignore
      continue
    }
    for (let code = from; code <= to; code++) {
      const character = String.fromCodePoint(code)
      for (const other of [character.toLowerCase(), character.toUpperCase()])
        if (Array.from(other).length === 1) added.push([other.codePointAt(0) ?? code, other.codePointAt(0) ?? code])
    }
  }
  return codePoints([...set, ...added])
}

/** The characters of a Unicode property, by the text between the braces of `\p{…}`; null for one that is not known. */
export function unicodeProperty(name: string): CodePoints | null {
  let pattern: RegExp
  try {
    pattern = new RegExp(`^\\p{${name}}$`, 'u')
  } catch {
    return null
  }
  const found: [number, number][] = []
  for (const [first, end] of EVERY) {
    for (let code = first; code <= end; code++) {
      if (!pattern.test(String.fromCodePoint(code))) continue
      const last = found.at(-1)
      if (last !== undefined && last[1] === code - 1) last[1] = code
      else found.push([code, code])
    }
  }
  return found
}

/** One range per byte. */
type ByteRanges = readonly (readonly [from: number, to: number])[]

/** The UTF-8 of a set: every character is one of these sequences of bytes, and every such sequence is a character of the set. */
export function utf8(set: CodePoints): ByteRanges[] {
  const sequences: ByteRanges[] = []
  for (const [from, to] of set) addRange(from, to, sequences)
  return sequences
}

/** The last code point that UTF-8 writes in 1, 2, 3 and 4 bytes. */
const LAST_OF_LENGTH = [0x7f, 0x7ff, 0xffff, 0x10ffff]

function addRange(from: number, to: number, sequences: ByteRanges[]): void {
  for (const last of LAST_OF_LENGTH) {
    if (from <= last && last < to) {
      addRange(from, last, sequences)
      addRange(last + 1, to, sequences)
      return
    }
  }
  // A range is cut where it does not cover all values of its last bytes.
  for (let bits = 6; bits < (to > 0x7f ? 24 : 0); bits += 6) {
    const mask = (1 << bits) - 1
    if ((from & ~mask) === (to & ~mask)) continue
    const cut = (from & mask) !== 0 ? from | mask : (to & mask) !== mask ? (to & ~mask) - 1 : null
    if (cut !== null) {
      addRange(from, cut, sequences)
      addRange(cut + 1, to, sequences)
      return
    }
  }
  const [first, last] = [bytesOf(from), bytesOf(to)]
  sequences.push(first.map((byte, i): [number, number] => [byte, last[i] ?? byte]))
}

function bytesOf(code: number): number[] {
  return [...Buffer.from(String.fromCodePoint(code))]
}
