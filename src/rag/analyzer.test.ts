import { describe, expect, it } from 'vitest'
import { analyze, stem } from './analyzer.ts'

describe('stem', () => {
  // Examples of Porter's paper, one or two per step.
  it.each([
    ['caresses', 'caress'],
    ['ponies', 'poni'],
    ['cats', 'cat'],
    ['feed', 'feed'],
    ['agreed', 'agre'],
    ['plastered', 'plaster'],
    ['motoring', 'motor'],
    ['sing', 'sing'],
    ['conflated', 'conflat'],
    ['hopping', 'hop'],
    ['falling', 'fall'],
    ['filing', 'file'],
    ['happy', 'happi'],
    ['sky', 'sky'],
    ['relational', 'relat'],
    ['vietnamization', 'vietnam'],
    ['electricity', 'electr'],
    ['hopefulness', 'hope'],
    ['adjustment', 'adjust'],
    ['adoption', 'adopt'],
    ['probate', 'probat'],
    ['rate', 'rate'],
    ['controlling', 'control'],
    ['generalizations', 'gener'],
  ])('%s -> %s', (word, expected) => {
    expect(stem(word)).toBe(expected)
  })
})

describe('analyze', () => {
  it('drops stop words and joins the forms of a word', () => {
    expect(analyze('The cached blocks are being cached')).toEqual(analyze('cache block caching'))
  })

  it('finds an identifier as a whole and by its parts', () => {
    expect(analyze('llm.cache.hits')).toEqual(['llm.cache.hits', 'llm', 'cach', 'hit'])
    expect(analyze('max_num_seqs')).toContain('max-num-seqs')
  })

  it('cuts CJK into bigrams and keeps other scripts whole', () => {
    expect(analyze('東京都 Größe')).toEqual(['東京', '京都', 'größe'])
    expect(analyze('GPU加速')).toEqual(['gpu', '加速'])
  })

  it('treats compatibility forms as the same letters and drops endless words', () => {
    expect(analyze('ﬁle')).toEqual(analyze('file'))
    expect(analyze('a'.repeat(500))).toEqual([])
  })
})

it('accepts CJK text of any length without a space', () => {
  expect(analyze('\u6f22'.repeat(300_000))).toHaveLength(299_999)
  expect(analyze('\u6f22')).toEqual(['\u6f22'])
})
