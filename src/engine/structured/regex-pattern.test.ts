import { afterAll, describe, expect, it } from 'vitest'
import { createByteTokenizer, EOS } from '../../../test/engine/byte-tokenizer.ts'
import { createRandom } from '../../../test/engine/random.ts'
import { createGrammarCompiler } from './grammar.ts'

const tokenizer = createByteTokenizer()
const compiler = createGrammarCompiler({ tokenizer, vocabSize: 264, eosTokenIds: [EOS] })
afterAll(() => compiler.close())

/** What a model without any preference writes under the pattern; null when it found no end, or bytes that are no text. */
async function draw(pattern: string, seed: number): Promise<string | null> {
  const random = createRandom(seed)
  const matcher = await compiler.createMatcher({ kind: 'regex', pattern })
  const tokens: number[] = []
  try {
    while (tokens.length < 60) {
      const mask = await matcher.mask()
      const allowed = Array.from({ length: EOS + 1 }, (_, token) => token).filter(
        (token) => ((mask[token >> 5] ?? 0) >>> (token & 31)) & 1,
      )
      const ascii = allowed.filter((token) => token < 128 || token === EOS)
      const token = random.pick(ascii.length > 0 && random.next() < 0.7 ? ascii : allowed)
      matcher.accept(token)
      if (token === EOS) {
        const text = tokenizer.decode(tokens)
        return text.includes('\ufffd') ? null : text
      }
      tokens.push(token)
    }
    return null
  } finally {
    matcher.close()
  }
}

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
  ])('%s', async (pattern) => {
    const exact = new RegExp(`^(?:${pattern})$`, 'u')
    const texts = new Set<string>()
    for (let seed = 1; seed <= 8; seed++) {
      const text = await draw(pattern, seed)
      if (text !== null) texts.add(text)
    }
    expect(texts.size).toBeGreaterThan(0)
    for (const text of texts) expect(text).toMatch(exact)
  })
})

describe('what the compiler would read as something else is refused, in words', () => {
  it.each([
    ['a$b', '"$" elsewhere than at its end'],
    ['(a|^b)', '"^" elsewhere than at its beginning'],
    ['[^\\s\\S]', 'a negated class of negated ones'],
    ['[^é]', 'a negated class of characters beyond ASCII'],
    ['[一-龥]', 'a range beyond ASCII of more than 512 characters'],
    ['[\\p{L}]', 'an escape of this name in a class'],
    ['[z-a]', 'a range whose end comes before its beginning'],
    ['[a', 'a class without end'],
  ])('%s', async (pattern, why) => {
    await expect(compiler.createMatcher({ kind: 'regex', pattern })).rejects.toThrow(
      `structured_outputs: the pattern cannot be enforced: ${why}`,
    )
  })
})
