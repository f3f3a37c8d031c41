import { expect, it } from 'vitest'
import { createRandom } from '../../../test/engine/random.ts'
import { modelSettings } from '../../settings/model.ts'
import { isReasoningOpen, REASONING_FORMATS, reasoningFormat } from './reasoning-format.ts'
import type { ReasoningParserName } from './reasoning-format.ts'
import { createReasoningParser } from './reasoning-parser.ts'

const tokenizer = { tokenId: () => null, isSpecial: () => false }

function formatOf(name: ReasoningParserName) {
  const format = reasoningFormat(name, null)
  if (format === null) throw new Error(name)
  return format
}
const format = formatOf('qwen3')

/** Of a text in pieces. */
function part(pieces: readonly string[], promptEnd = '', name: ReasoningParserName = 'qwen3') {
  const thought = createReasoningParser(formatOf(name), promptEnd, tokenizer)
  const all = [...pieces.map((piece) => thought.push(piece)), thought.flush()]
  return { reasoning: all.map(({ reasoning }) => reasoning).join(''), text: all.map(({ text }) => text).join('') }
}

function expectParted(text: string, promptEnd: string, expected: object, name: ReasoningParserName = 'qwen3'): void {
  expect(part([text], promptEnd, name)).toEqual(expected)
  expect(part([...text], promptEnd, name)).toEqual(expected)
  const random = createRandom(5)
  for (let i = 0; i < 20; i++) {
    const pieces: string[] = []
    for (let at = 0; at < text.length;) {
      const length = 1 + Math.floor(random.next() * 5)
      pieces.push(text.slice(at, at + length))
      at += length
    }
    expect(part(pieces, promptEnd, name)).toEqual(expected)
  }
}

const cases: readonly (readonly [text: string, isOpen: boolean, reasoning: string, answer: string])[] = [
  ['<think>\nSo 1 < 2.\n\n</think>\n\nYes.\n', false, 'So 1 < 2.', 'Yes.\n'],
  ['So.\n</think>\n\nYes.', true, 'So.', 'Yes.'],
  ['  \n<think></think>{"a": 1}', false, '', '{"a": 1}'],
  ['No thought. <think> later </think>', false, '', 'No thought. <think> later </think>'],
  ['  leading space', false, '', '  leading space'],
  ['<think>cut off </thin', false, 'cut off </thin', ''],
  ['<think>a </ think> b</think>c</think>', false, 'a </ think> b', 'c</think>'],
  ['<thi', false, '', '<thi'],
  ['', true, '', ''],
]

it.each(cases)('%j is parted, whole and in pieces', (text, isOpen, reasoning, answer) => {
  expectParted(text, isOpen ? '<|assistant|><think>\n' : '<|assistant|>', { reasoning, text: answer })
})

it.each([
  ['mistral', '[THINK]So.[/THINK]Yes.'],
  ['seed_oss', '<seed:think>So.</seed:think>Yes.'],
  ['command_a', '<|START_THINKING|>So.<|END_THINKING|>Yes.'],
  ['kimi_vl', '◁think▷So.◁/think▷Yes.'],
  ['gemma4', '<|channel>thought\nSo.\n<channel|>Yes.'],
  ['openai_gptoss', '<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>final<|message|>Yes.'],
] as const)('%s: %j is parted', (name, text) => {
  expectParted(text, '', { reasoning: 'So.', text: 'Yes.' }, name)
})

const CALL = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>'
it.each([
  ['', '<|channel|>final<|message|>Yes. <|return|>', '', 'Yes.'],
  ['', '<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|> b<|end|>', 'a\nb', ''],
  ['', `<|channel|>analysis<|message|>a<|end|><|start|>assistant${CALL}`, 'a', CALL],
  ['', ` to=functions.f<|channel|>commentary json<|message|>{"a": 1}<|call|>`, '', CALL],
  [
    '',
    '<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>Ok',
    '',
    'I look.\nOk',
  ],
  ['<|start|>assistant<|channel|>analysis<|message|>', 'cut <|en', 'cut <|en', ''],
  ['<|start|>assistant<|channel|>final<|message|>One', ' two', '', ' two'],
  ['<|start|>assistant', '<|channel|>anal', '', ''],
  ['', '<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>', 'a', ''],
  ['<|start|>assistant', '<', '', '<'],
  ['the rest of a long message', ' and more', '', ' and more'],
  ['<|start|>assistant', 'No header. <|end|>', '', 'No header.'],
  ['', '<|channel|>analysis<|message|>no end<|channel|>final<|message|>x < y', 'no end', 'x < y'],
])('a message and its channel after %j: %j', (promptEnd, text, reasoning, answer) => {
  expectParted(text, promptEnd, { reasoning, text: answer }, 'openai_gptoss')
})

it('every form can be named by the flag', () => {
  const names = ['auto', 'none', ...REASONING_FORMATS.map(({ name }) => name)]
  expect(modelSettings.reasoningParser.unwrap().out.options.toSorted()).toEqual(names.toSorted())
})

it('formats are found in chat templates, and thoughts that a prompt begins', () => {
  expect(reasoningFormat('auto', "{{ '<think>\\n\\n</think>' }}")?.name).toBe('qwen3')
  expect(reasoningFormat('auto', '[THINK]{{ x }}[/THINK]')?.name).toBe('mistral')
  expect(reasoningFormat('auto', "{{ '<|channel>thought\\n<channel|>' }}")?.name).toBe('gemma4')
  expect(reasoningFormat('auto', "{{ '<|channel|>analysis' }}")?.name).toBe('openai_gptoss')
  expect(reasoningFormat('auto', 'plain')).toBeNull()
  expect(reasoningFormat('none', '</think>')).toBeNull()
  expect(isReasoningOpen(format, '<|assistant|><think>\n')).toBe(true)
  expect(isReasoningOpen(format, '<think>\n\n</think>\n\n')).toBe(false)
})
