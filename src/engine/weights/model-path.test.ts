import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { forcedDecode, goldenRequest, readGolden } from '../../../test/golden/golden.ts'
import { splitGguf } from '../../../test/golden/split-gguf.ts'
import { loadModel } from '../runner/model.ts'
import { loadTokenizer } from '../tokenizer/tokenizer.ts'
import { localModel } from './model-path.ts'

const GGUF = fileURLToPath(new URL('../../../test/golden/gguf/tiny-text.gguf', import.meta.url))
let folder: string

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'miniserve-model-path-'))
})
afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

function folderOf(name: string, files: Readonly<Record<string, string | null>>): string {
  const path = join(folder, name)
  mkdirSync(path, { recursive: true })
  for (const [file, content] of Object.entries(files)) {
    if (content === null) copyFileSync(GGUF, join(path, file))
    else writeFileSync(join(path, file), content)
  }
  return path
}

describe('a path', () => {
  it.each([
    ['a folder in Hugging Face layout', 'hf', { 'config.json': '{}', 'model.gguf': null }, '', ''],
    ['a GGUF file', 'plain', { 'm.gguf': null }, 'm.gguf', 'm.gguf'],
    ['one under any name', 'blob', { 'sha256-abc': null }, 'sha256-abc', 'sha256-abc'],
    ['one with another case', 'upper', { 'M.GGUF': null }, 'M.GGUF', 'M.GGUF'],
    ['a folder that holds one', 'one', { 'm.gguf': null, 'mmproj-m.gguf': null, README: 'x' }, '', 'm.gguf'],
    ['a folder that holds one in upper case', 'one-upper', { 'M.GGUF': null }, '', 'M.GGUF'],
    [
      'any part of a split one',
      'parts',
      { 'm-00001-of-00002.gguf': null, 'm-00002-of-00002.gguf': null },
      'm-00002-of-00002.gguf',
      'm-00001-of-00002.gguf',
    ],
    [
      'a folder that holds a split one',
      'parts',
      { 'm-00001-of-00002.gguf': null, 'm-00002-of-00002.gguf': null },
      '',
      'm-00001-of-00002.gguf',
    ],
  ])('leads to %s', async (_, name, files, given, found) => {
    const path = folderOf(name, files)
    expect(await localModel(join(path, given))).toBe(join(path, found))
  })

  it.each([
    ['several models', 'several', { 'a.gguf': null, 'b.gguf': null }, '', /expected one model, found a\.gguf, b\.gguf/],
    [
      'a pointer',
      'lfs',
      { 'm.gguf': 'version https://git-lfs.github.com/spec/v1\noid sha256:0' },
      'm.gguf',
      /git lfs pull/,
    ],
    [
      'weights alone',
      'weights',
      { 'model.safetensors': '\u0010\0\0\0\0\0\0\0{"a":1}' },
      'model.safetensors',
      /give --model the folder/,
    ],
    ['a web page', 'page', { 'm.gguf': '<!DOCTYPE html><html>' }, 'm.gguf', /a web page/],
    ['something else', 'other', { 'm.bin': 'hello' }, 'm.bin', /expected a GGUF file or a folder/],
    [
      'a part alone',
      'alone',
      { 'm-00002-of-00002.gguf': null },
      'm-00002-of-00002.gguf',
      /without its first part, m-00001-of-00002\.gguf/,
    ],
  ])('that leads to %s is refused in a sentence', async (_, name, files, given, message) => {
    await expect(localModel(join(folderOf(name, files), given))).rejects.toThrow(message)
  })
})

describe('a split GGUF', () => {
  it('has the logits and the tokenizer of the file in one piece', async () => {
    const path = folderOf('split', {})
    const [first = '', second = ''] = splitGguf(GGUF, path, 'tiny', 3)
    const golden = readGolden('tiny-text')
    const run = async (file: string) => {
      const model = await loadModel({ ...goldenRequest('tiny-text'), path: file })
      const { logits } = await forcedDecode(model, golden.prompt, 33, [5, 2, 7, 1, 3, 0])
      await model.backend.close()
      return logits
    }
    const found = await localModel(join(path, second))
    expect(found).toBe(join(path, first))
    expect(await run(found)).toEqual(await run(GGUF))
    expect((await loadTokenizer(found)).encode('The river')).toEqual((await loadTokenizer(GGUF)).encode('The river'))
    rmSync(join(path, second))
    await expect(run(found)).rejects.toThrow(/00002-of-00003\.gguf: this part of the model is missing/)
  })
})
