import { afterAll, describe, expect, it } from 'vitest'
import { createByteTokenizer, EOS } from '../../../../test/engine/byte-tokenizer.ts'
import { draw } from '../../../../test/engine/grammar-draw.ts'
import { createRandom } from '../../../../test/engine/random.ts'
import { intersect } from './automaton.ts'
import type { Automaton, AutomatonState } from './automaton.ts'
import { createGrammarCompiler } from '../grammar-compiler.ts'
import { partialMatch } from './regex-anchors.ts'
import { parseRegex } from './regex.ts'
import { Unenforceable } from '../unenforceable.ts'

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
    '\\cA',
    '(a{1,100}){1,100}',
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

it.each([
  ['(?i)ab[^c]é', /^ab[^c]é$/iu],
  ['a(?i:b)c', /^a[bB]c$/u],
  ['(?s).{2}', /^.{2}$/su],
])('%s: flags within a pattern', async (pattern, exact) => {
  for (let seed = 1; seed <= 8; seed++)
    expect(await draw(compiler, { kind: 'regex', pattern }, seed, { closing: '' })).toMatch(exact)
})

describe('a pattern finds what JavaScript finds', () => {
  const texts = Array.from({ length: 2 ** 7 - 1 }, (_, i) => (i + 1).toString(2).slice(1).replaceAll('0', 'a').replaceAll('1', 'b')) // prettier-ignore

  function accepts({ states }: Automaton, text: string): boolean {
    let state: AutomatonState | undefined = states[0]
    for (const character of text) {
      const code = character.codePointAt(0) ?? 0
      const edge = state?.next.find(({ set }) => set.some(([low, high]) => low <= code && code <= high))
      if (edge === undefined) return false
      state = states[edge.state]
    }
    return state?.isEnd === true
  }

  function expectSame(pattern: string): void {
    const own = intersect([partialMatch(parseRegex(pattern))])
    const found = texts.filter((text) => new RegExp(pattern, 'u').test(text))
    expect(own === null ? [] : texts.filter((text) => accepts(own, text)), pattern).toEqual(found)
  }

  it.each(['^(?:a|b$)a*', '((?!ab).)*$', '^((?!ab).)*$', '^(?!^a*$)[ab]+$', '^^a', 'a$|^b', '(a(?=b)|b){2}$', '^(?:(?=a)[ab]b?)+$', '(?:a$)?b*', '^(?=a|^b)', '(?=a$)a'])('%s', expectSame) // prettier-ignore

  it('drawn at random', () => {
    const random = createRandom(9)
    const atom = (depth: number): string => {
      const inner = () => sequence(depth - 1)
      return random.pick([() => 'a', () => 'b', () => '.', () => '[ab]', ...(depth > 0 ? [() => `(${inner()})`, () => `(?:${inner()}|${inner()})`, () => `(?=${inner()})`, () => `(?!${inner()})`, () => '$'] : [])])() // prettier-ignore
    }
    const part = (depth: number): string => {
      const made = atom(depth)
      return /^(?:\(\?[=!]|\$)/.test(made) ? made : made + random.pick(['', '', '', '*', '?', '{1,2}', '+'])
    }
    const sequence = (depth: number): string => Array.from({ length: 1 + Math.floor(random.next() * 2) }, () => part(depth)).join('') // prettier-ignore
    let numRead = 0
    for (let i = 0; i < 150; i++) {
      const pattern = random.pick(['', '^']) + sequence(2) + random.pick(['', '$'])
      try {
        intersect([partialMatch(parseRegex(pattern))])
      } catch (error) {
        expect(error).toBeInstanceOf(Unenforceable)
        continue
      }
      expectSame(pattern)
      numRead++
    }
    expect(numRead).toBeGreaterThan(100)
  })
})

describe('what cannot be enforced is refused, in words', () => {
  it.each([
    ['a$b', 'no text matches it'],
    ['a(b|^c)', '"^" that is not'],
    ['[^\\s\\S]', 'no text matches it'],
    ['\\bword', '"\\b", a word boundary'],
    ['(a)\\1', 'a reference to a group'],
    ['(?<=a)b', 'a look-behind'],
    ['[[:alpha:]]', 'a class inside brackets and colons'],
    ['[x[:^digit:]]', 'a class inside brackets and colons'],
    ['[[=a=]]', 'a class inside brackets and colons'],
    ['(?m)a', 'a group of this kind'],
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
