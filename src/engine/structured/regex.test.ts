import { afterAll, describe, expect, it } from 'vitest'
import { createByteTokenizer, EOS } from '../../../test/engine/byte-tokenizer.ts'
import { draw } from '../../../test/engine/grammar-draw.ts'
import { createGrammarCompiler } from './grammar.ts'

const compiler = createGrammarCompiler({ tokenizer: createByteTokenizer(), vocabSize: 264, eosTokenIds: [EOS] })
afterAll(() => compiler.close())

describe('what finishes matches the whole pattern', () => {
  it.each([
    '.{1,3}',
    'a.c',
    '^a|b$',
    'x.$',
    '\\S{2}',
    '[^\\s]{1,2}',
    '[\\s\\S]{1,2}',
    '[^\\w]{2}',
    '[\\w-]{1,4}',
    '[a\\-z]{3}',
    '[\\^]{2}',
    '[\\^-b]{3}',
    '[^\\^]{2}',
    '[^a^]',
    '[$^.\\]]{3}',
    '\\$\\^\\.\\[',
    '[\\x41-\\x45]',
    '[à-é]',
    '[\\u00e0-\\u00e9x]{2}',
    '[\\^é]{3}',
    '[😀-😅]{1,2}',
    '(?:ab|[cd]){2,3}e?',
    '[^é]{2}',
    '[一-龥]',
    '\\p{Lu}\\P{L}',
    '(?!a)[a-c]{2}',
    '(?=.*b)[ab]{3}',
    '(?<year>\\d{2}?)',
    '\\u{1f600}|\\ud83d\\ude01|\\x41B|\\x0aB',
    '(?:^a|b)c$',
  ])('%s', async (pattern) => {
    const exact = new RegExp(`^(?:${pattern})$`, 'u')
    const texts = new Set<string>()
    for (let seed = 1; seed <= 8; seed++) {
      const text = await draw(compiler, { kind: 'regex', pattern }, seed, { closing: '', maxBytes: 60 })
      if (text !== null) texts.add(text)
    }
    expect(texts.size).toBeGreaterThan(0)
    for (const text of texts) expect(text).toMatch(exact)
  })
})

describe('what cannot be enforced is refused, in words', () => {
  it.each([
    ['a$b', '"^" elsewhere than at its beginning or "$" elsewhere than at its end'],
    ['a(b|^c)', '"^" elsewhere'],
    ['[^\\s\\S]', 'no text matches it'],
    ['\\bword', '"\\b", a word boundary'],
    ['(a)\\1', 'a reference to a group'],
    ['\\Aabc\\z', 'an escape of this name'],
    ['(?<=a)b', 'a look-behind'],
    ['(?i)a', 'a group of this kind'],
    ['\\p{Wrong}', '"\\p" of a property that is not known'],
    ['[z-a]', 'a range whose end comes before its beginning'],
    ['[a', 'a class without end'],
    ['(a', 'an opening parenthesis'],
    ['a)', 'a closing parenthesis'],
    ['a**', 'a repetition of a repetition'],
    ['*a', 'a repetition of nothing'],
  ])('%s', async (pattern, why) => {
    await expect(compiler.compile({ kind: 'regex', pattern })).rejects.toThrow(
      `structured_outputs: the pattern cannot be enforced: ${why}`,
    )
  })
})
