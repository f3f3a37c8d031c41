import { expect, it } from 'vitest'
import { createSentencePicker } from './closest-sentences.ts'
import type { Embedder } from './embedder.ts'

/** The first axis is for cats, the second for anything. */
const embedder = {
  async embed(texts: readonly string[]) {
    const rows = texts.map((text) => (/\b(?:cat|kitten)/i.test(text) ? [1, 0] : [0, 1]))
    return { vectors: Float32Array.from(rows.flat()), numTokens: texts.map(() => 1) }
  },
} as unknown as Embedder
const pick = createSentencePicker(embedder)

it('finds the sentences that are closest by meaning and by words, in their order', async () => {
  const passages = [
    'Dogs bark. A kitten sleeps. "Cats eat fish!" he said.',
    'The cat of\nthe house sings\n- one\n- a cat list',
  ]
  expect(await pick('What do cats eat?', passages, 1)).toEqual(['"Cats eat fish!"'])
  expect(await pick('Does the cat sing?', passages, 1)).toEqual(['The cat of\nthe house sings'])
  expect(await pick('Any cat?', passages, 3)).toEqual([
    '"Cats eat fish!"',
    'The cat of\nthe house sings',
    '- a cat list',
  ])
})

it('repeats nothing if it would repeat everything', async () => {
  expect(await pick('A cat?', ['A cat.'], 1)).toEqual([])
  expect(await pick('A cat?', [], 1)).toEqual([])
})
