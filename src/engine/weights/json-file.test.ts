import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { ModelError } from '../runner/runner.ts'
import { readModules } from '../runner/encoder/modules.ts'
import { readJsonList, readJsonObject } from './json-file.ts'

let folder = ''
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'miniserve-json-'))))
afterAll(() => rmSync(folder, { recursive: true }))

function write(content: string): string {
  const path = join(folder, 'file.json')
  writeFileSync(path, content)
  return path
}

it('returns null only where there is no file', async () => {
  expect(await readJsonObject(join(folder, 'none.json'))).toBeNull()
  expect(await readJsonList(join(folder, 'none.json'))).toBeNull()
  expect(await readJsonObject(write('{"a": NaN, "b": [Infinity]}'))).toEqual({ a: null, b: [null] })
  expect(await readJsonList(write('[1, -Infinity]'))).toEqual([1, null])
})

it.each([
  ['null', 'a JSON object, found null'],
  ['[]', 'a JSON object, found a list'],
  ['"text"', 'a JSON object, found a string'],
  ['1', 'a JSON object, found a number'],
  ['true', 'a JSON object, found a boolean'],
  ['{"a"', 'JSON, found something else (truncated download?)'],
  ['', 'JSON, found something else (truncated download?)'],
])('names a file that contains %j', async (content, words) => {
  const path = write(content)
  await expect(readJsonObject(path)).rejects.toThrow(`${path}: expected ${words}`)
})

it('names the files of an embedding model that are not what they should be', async () => {
  for (const [file, content, words] of [
    ['modules.json', 'null', 'a JSON list, found null'],
    ['modules.json', '{}', 'a JSON list, found an object'],
    ['sentence_bert_config.json', 'null', 'a JSON object, found null'],
  ] as const) {
    const path = join(folder, file)
    writeFileSync(path, content)
    await expect(readModules(folder, 'mean')).rejects.toThrow(`${path}: expected ${words}`)
    rmSync(path)
  }
})

it('is told in a message of bounded length, without the control sequences of a hostile file', () => {
  const { message } = new ModelError(`broken\u001b[31m\n${'x'.repeat(1e6)}`)
  expect(message).toMatch(/^broken�\[31m\nx+…$/)
  expect(message.length).toBeLessThan(5000)
})
