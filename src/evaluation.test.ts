/** Files that cannot be evaluated name the line and what was expected; what their numbers are is tested through the command line. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { openScriptedEngine } from '../test/engine/scripted-engine.ts'
import { measureChoices, measurePerplexity } from './evaluation.ts'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'miniserve-evaluation-'))
})
afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

const RIGHT = JSON.stringify({ prompt: 'a', choices: ['b', 'c'], answer: 0 })

it.each([
  ['', /file: expected JSON lines, found none$/],
  ['\n \r\n', /file: expected JSON lines, found none$/],
  [`${RIGHT}\n\n\nsecret text`, /file:4: expected a JSON object, found something else$/],
  [`${RIGHT}\n[1]`, /file:2: the line: expected an object \{prompt, choices, answer\}$/],
  ['{"choices": ["b", "c"], "answer": 0}', /file:1: prompt: expected a text$/],
  ['{"prompt": "a", "answer": 0}', /file:1: choices: expected a list of texts$/],
  ['{"prompt": "a", "choices": ["b", 1], "answer": 0}', /file:1: choices\.1: expected a text$/],
  [
    '{"prompt": "a", "choices": ["b", ""], "answer": 0}',
    /file:1: choices\.1: expected a text of one character or more$/,
  ],
  ['{"prompt": "a", "choices": ["b", "c"], "answer": 2}', /file:1: answer: expected the index of one of the choices$/],
  [
    '{"prompt": "a", "choices": ["b", "c"], "answer": "0"}',
    /file:1: answer: expected the index of one of the choices$/,
  ],
  [
    `\n${JSON.stringify({ prompt: 'a'.repeat(5000), choices: ['b', 'c'], answer: 0 })}`,
    /file:2: expected at most \d+ tokens of prompt and choice, found 500\d$/,
  ],
])('says which line of choices is wrong, and how: %j', async (text, message) => {
  const { engine } = openScriptedEngine()
  const path = join(folder, 'file')
  writeFileSync(path, text)
  const measured = measureChoices(engine, path, () => {})
  await expect(measured).rejects.toThrow(message)
  await expect(measured).rejects.not.toThrow('secret')
  await engine.close()
})

it('says that a text or its windows are too short', async () => {
  const { engine } = openScriptedEngine()
  const path = join(folder, 'text')
  writeFileSync(path, '')
  await expect(measurePerplexity(engine, path, null, () => {})).rejects.toThrow(
    /text: expected at least two tokens of text, found 0$/,
  )
  // The mark that some editors put first is no text.
  writeFileSync(path, '\uFEFFa')
  await expect(measurePerplexity(engine, path, null, () => {})).rejects.toThrow(
    /expected at least two tokens.*found 1$/,
  )
  await expect(measurePerplexity(engine, path, 1, () => {})).rejects.toThrow(/--context: expected \d tokens or more/)
  await engine.close()
})

it('reads a text of many times the context, window by window', async () => {
  const { engine } = openScriptedEngine()
  const path = join(folder, 'long')
  writeFileSync(path, 'The river runs. '.repeat(400))
  const seen: [number, number][] = []
  const { tokens } = await measurePerplexity(engine, path, 64, (done, total) => seen.push([done, total]))
  expect(seen.at(-1)).toEqual([seen.length, seen.length])
  expect(seen.length).toBeGreaterThan(engine.maxModelLen / 64)
  expect(tokens).toBe(seen.length * 31)
  await engine.close()
})
