import { expect, it } from 'vitest'
import { createByteTokenizer } from '../../../test/engine/byte-tokenizer.ts'
import type { GrammarMatcher } from '../structured/grammar-protocol.ts'
import { REASONING_FORMATS } from './reasoning-format.ts'
import { ReasoningMatcher } from './reasoning-matcher.ts'

const VOCAB = 264
const ANSWER = new Uint32Array(Math.ceil(VOCAB / 32)).fill(5)

function answerMatcher(): GrammarMatcher & { readonly accepted: number[] } {
  const accepted: number[] = []
  return { accepted, accept: (token) => void accepted.push(token), mask: async () => ANSWER, close: () => {} }
}

it.each(REASONING_FORMATS.filter(({ hasChannels }) => !hasChannels))(
  'the answer is constrained behind the end of reasoning, however tokens cut its characters: $name',
  async (format) => {
    const tokenizer = createByteTokenizer()
    const answer = answerMatcher()
    const options = { format, isOpen: true, budget: null, answer, direct: null, tokenizer, vocabSize: VOCAB }
    const matcher = new ReasoningMatcher(options)
    // Every byte is a token, also of characters of several bytes.
    for (const byte of Buffer.from(`Hmm, é${format.end.slice(0, -1)} no`)) matcher.accept(byte)
    expect(await matcher.mask()).not.toBe(ANSWER)
    for (const byte of Buffer.from(format.end)) matcher.accept(byte)
    expect(await matcher.mask()).toBe(ANSWER)
    matcher.accept(65)
    expect(answer.accepted).toEqual([65])
  },
)

it('a spent budget forces the end of the reasoning, and then the answer', async () => {
  const tokenizer = createByteTokenizer()
  const format = REASONING_FORMATS.find(({ name }) => name === 'kimi_vl')!
  const answer = answerMatcher()
  const matcher = new ReasoningMatcher({ format, isOpen: true, budget: 3, answer, direct: null, tokenizer, vocabSize: VOCAB }) // prettier-ignore
  for (const byte of Buffer.from('abc')) matcher.accept(byte)
  for (const expected of tokenizer.encode(format.end, { addSpecialTokens: false })) {
    const mask = await matcher.mask()
    const allowed = Array.from({ length: VOCAB }, (_, token) => token).filter(
      (token) => (mask[token >> 5]! >>> (token & 31)) & 1,
    )
    expect(allowed).toEqual([expected])
    matcher.accept(expected)
  }
  expect(await matcher.mask()).toBe(ANSWER)
})
