import { expect, it } from 'vitest'
import { createRandom } from '../../../test/engine/random.ts'
import { isOpenThought, reasoningFormat } from './reasoning-format.ts'
import { Thought } from './thought.ts'

const format = reasoningFormat('qwen3', null)
if (format === null) throw new Error('expected a format')
const tokenizer = { tokenId: () => null }

/** Of a text in pieces. */
function part(pieces: readonly string[], isOpen = false) {
  const thought = new Thought(format ?? { name: 'qwen3', begin: '', end: '' }, isOpen, tokenizer)
  const all = [...pieces.map((piece) => thought.push(piece)), thought.flush()]
  return { reasoning: all.map(({ reasoning }) => reasoning).join(''), text: all.map(({ text }) => text).join('') }
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
  expect(part([text], isOpen)).toEqual({ reasoning, text: answer })
  expect(part([...text], isOpen)).toEqual({ reasoning, text: answer })
  const random = createRandom(5)
  for (let i = 0; i < 20; i++) {
    const pieces: string[] = []
    for (let at = 0; at < text.length;) {
      const length = 1 + Math.floor(random.next() * 5)
      pieces.push(text.slice(at, at + length))
      at += length
    }
    expect(part(pieces, isOpen)).toEqual({ reasoning, text: answer })
  }
})

it('formats are found in chat templates, and thoughts that a prompt begins', () => {
  expect(reasoningFormat('auto', "{{ '<think>\\n\\n</think>' }}")?.name).toBe('qwen3')
  expect(reasoningFormat('auto', '[THINK]{{ x }}[/THINK]')?.name).toBe('mistral')
  expect(reasoningFormat('auto', 'plain')).toBeNull()
  expect(reasoningFormat('none', '</think>')).toBeNull()
  expect(isOpenThought(format, '<|assistant|><think>\n')).toBe(true)
  expect(isOpenThought(format, '<think>\n\n</think>\n\n')).toBe(false)
})
