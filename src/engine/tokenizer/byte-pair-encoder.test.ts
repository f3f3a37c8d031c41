import { expect, test } from 'vitest'
import { BytePairEncoder } from './byte-pair-encoder.ts'
import { createTokenizer } from './tokenizer.ts'

/** A sequence of numbers below `bound` from a fixed seed. */
function generator(seed: number): (bound: number) => number {
  let state = seed
  return (bound) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * bound)
  }
}

/** The definition: while any neighbours have a rule, the one of smallest rank is applied, the leftmost first. */
function slowly(text: string, rank: (left: string, right: string) => number): string[] {
  const pieces = [...text]
  for (;;) {
    let best = -1
    let bestRank = Infinity
    for (let i = 0; i + 1 < pieces.length; i++) {
      const found = rank(pieces[i]!, pieces[i + 1]!)
      if (found < bestRank) {
        best = i
        bestRank = found
      }
    }
    if (best < 0) return pieces
    pieces.splice(best, 2, pieces[best]! + pieces[best + 1]!)
  }
}

const LETTERS = [...'abcd']

test('listed merges apply in their order, the leftmost first', () => {
  const random = generator(1)
  const tokens = [...LETTERS]
  const merges: [string, string][] = []
  while (merges.length < 60) {
    const pair: [string, string] = [tokens[random(tokens.length)]!, tokens[random(tokens.length)]!]
    if (tokens.includes(pair.join(''))) continue
    merges.push(pair)
    tokens.push(pair.join(''))
  }
  const ranks = new Map(merges.map((pair, rank) => [pair.join(' '), rank]))
  for (const listed of [merges, merges.map((pair) => pair.join(' '))]) {
    const encoder = new BytePairEncoder({}, { tokens, merges: listed })
    for (let round = 0; round < 200; round++) {
      const text = Array.from({ length: 1 + random(40) }, () => LETTERS[random(4)]).join('')
      expect(encoder.encode([text]), text).toEqual(
        slowly(text, (left, right) => ranks.get(`${left} ${right}`) ?? Infinity),
      )
    }
  }
})

test('scored vocabularies join what scores highest, and control tokens never', () => {
  const random = generator(2)
  const tokens = [...LETTERS, 'ab', 'bc', 'abc', 'cd', 'dd', 'abcd', 'ddd', 'aa']
  const scores = tokens.map((_, id) => -((id * 7) % tokens.length))
  const control = tokens.indexOf('aa')
  const encoder = new BytePairEncoder({}, { tokens, merges: { scores, canMerge: (id) => id !== control } })
  for (let round = 0; round < 200; round++) {
    const text = Array.from({ length: 1 + random(30) }, () => LETTERS[random(4)]).join('')
    const rank = (left: string, right: string): number => {
      const id = tokens.indexOf(left + right)
      return id < 0 || id === control ? Infinity : -scores[id]!
    }
    expect(encoder.encode([text]), text).toEqual(slowly(text, rank))
  }
})

test('characters outside the vocabulary become bytes, or unknown ones, fused where the model says so', () => {
  const bytes = ['<0xC3>', '<0xA9>']
  const vocabulary = { tokens: ['<unk>', 'a', ...bytes], merges: [] }
  expect(new BytePairEncoder({ byte_fallback: true }, vocabulary).encode(['aé'])).toEqual(['a', ...bytes])
  expect(new BytePairEncoder({ unk_token: '<unk>' }, vocabulary).encode(['xya'])).toEqual(['<unk>', '<unk>', 'a'])
  const fused = new BytePairEncoder({ unk_token: '<unk>', fuse_unk: true }, vocabulary)
  expect(fused.encode(['xya', 'x'])).toEqual(['<unk>', 'a', '<unk>'])
  expect(new BytePairEncoder({}, vocabulary).encode(['xa'])).toEqual(['a'])
})

test.each([
  ['vocab', { vocab: { a: 4e9 } }, []],
  ['vocab', { vocab: { a: -1 } }, []],
  ['vocab', { vocab: { a: 'b' } }, []],
  ['added_tokens', { vocab: { a: 0 } }, [{ id: 1e8, content: '<end>' }]],
])('token ids beyond any vocabulary are refused: %s', (where, model, added) => {
  const tokenizer = { model: { type: 'BPE', merges: [], ...model }, added_tokens: added }
  expect(() => createTokenizer({ tokenizer, config: {} })).toThrow(
    new RegExp(`${where}.*: expected token ids from 0 to 4194303, found`),
  )
})
