import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { createChatTemplate } from '../chat/chat-template.ts'
import { PromptEncoder } from '../chat/prompt-encoder.ts'
import { DeadlineError, withDeadline } from './deadline.ts'
import { createTokenizer, loadTokenizer } from '../tokenizer/tokenizer.ts'

test('a task gives its value, its error, or is stopped inside a pattern', () => {
  expect(withDeadline(1000, () => withDeadline(1000, () => 7) + 1)).toBe(8)
  expect(() =>
    withDeadline(1000, () => {
      throw new RangeError('its own')
    }),
  ).toThrow(RangeError)
  expect(() => withDeadline(20, () => /^(a+)+$/.test(`${'a'.repeat(60)}b`))).toThrow(DeadlineError)
})

const BYTES = {
  model: { type: 'BPE', vocab: { a: 0, b: 1, '<unk>': 2 }, unk_token: '<unk>', merges: [] },
  decoder: { type: 'ByteLevel' },
}
const encoderOf = (stages: Record<string, unknown>): PromptEncoder => {
  const tokenizer = createTokenizer({ tokenizer: { ...BYTES, ...stages }, config: {} })
  expect(tokenizer.isLinear).toBe(false)
  return new PromptEncoder(tokenizer, null, 100_000)
}

test.each([
  [
    'a pattern that backtracks',
    { pre_tokenizer: { type: 'Split', pattern: { Regex: '^(a+)+$' }, behavior: 'Isolated' } },
  ],
  [
    'replacements that double',
    {
      normalizer: {
        type: 'Sequence',
        normalizers: Array.from({ length: 30 }, () => ({ type: 'Replace', pattern: { String: 'a' }, content: 'aa' })),
      },
    },
  ],
])('%s is a bad request, not a server that hangs', (_, stages) => {
  const encoder = encoderOf(stages)
  expect(() => encoder.encode({ text: `${'a'.repeat(60)}b` })).toThrow(
    expect.objectContaining({ code: 'invalid_request', param: 'prompt' }),
  )
  expect(encoder.encode({ text: 'b' })).toEqual([1])
})

test('tokenizers of known models are not watched', async () => {
  const bundled = fileURLToPath(new URL('../../../models/mini-1m', import.meta.url))
  expect((await loadTokenizer(bundled)).isLinear).toBe(true)
  const split = {
    type: 'Split',
    pattern: {
      Regex: String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
    },
    behavior: 'Isolated',
  }
  const replace = { type: 'Replace', pattern: { String: ' ' }, content: '▁' }
  for (const stages of [{ pre_tokenizer: { type: 'Sequence', pretokenizers: [split] } }, { normalizer: replace }, {}]) {
    expect(createTokenizer({ tokenizer: { ...BYTES, ...stages }, config: {} }).isLinear).toBe(true)
  }
})

test("a template that loops without end is the model's fault, said at once", () => {
  const template = createChatTemplate('{% for i in range(1000000000) %}{{ i }}{% endfor %}', {
    bosToken: null,
    eosToken: null,
  })
  expect(() => template.render([{ role: 'user', content: 'hi' }])).toThrow(
    expect.objectContaining({ code: 'engine_error', message: expect.stringMatching(/range\(\) of more than/) }),
  )
})
