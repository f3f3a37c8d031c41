/** Finds the model at a local path: a folder in Hugging Face layout, or a GGUF file, whole or split. */
import { access, readdir, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { foundInstead, openFile } from '../../regular-file.ts'
import { ModelError } from '../runner/runner.ts'

/** The names that llama-gguf-split gives to the parts of a file. */
const PART = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/i
const FIRST_BYTES = 128

/** Whether a model's path is a folder. Otherwise it is a GGUF file, as `localModel` checks. */
export async function isFolder(path: string): Promise<boolean> {
  return (await stat(path)).isDirectory()
}

/**
 * The folder or GGUF file to open for a path. Any part of a split file leads to its first part, and a folder with one GGUF file and no config.json
 * leads to that file. GGUF files are recognised by their first bytes, under any name (Ollama calls them sha256-…).
 * @throws ModelError that says what was found instead and what to do
 */
export async function localModel(path: string): Promise<string> {
  if (await isFolder(path)) {
    if (await exists(join(path, 'config.json'))) return path
    const files = (await readdir(path)).filter((name) => /\.gguf$/i.test(name) && !/^mmproj/i.test(name)).sort()
    // All parts of a split file are one model.
    const models = [...new Set(files.map((name) => partsOf(name)?.[0] ?? name))]
    if (models.length > 1)
      throw new ModelError(`${path}: expected one model, found ${models.join(', ')}; name one of these files`)
    const [only] = models
    // Without any, the reader of config.json reports what is missing.
    return only === undefined ? path : localModel(join(path, only))
  }
  await requireGguf(path)
  const [first = ''] = partsOf(basename(path)) ?? [basename(path)]
  const whole = join(dirname(path), first)
  if (await exists(whole)) return whole
  throw new ModelError(
    `${path}: found a part of a split GGUF without its first part, ${first}; download all parts into one folder`,
  )
}

/** The names of all parts of a split file, given the name of one; null: the name is not that of a part. */
export function partsOf(name: string): string[] | null {
  const [, stem = '', , count = ''] = PART.exec(name) ?? []
  if (count === '') return null
  return Array.from({ length: Number(count) }, (_, i) => `${stem}-${String(i + 1).padStart(5, '0')}-of-${count}.gguf`)
}

/** Whether a path exists. A broken link does not. */
export async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}

async function requireGguf(path: string): Promise<void> {
  let bytes: Buffer
  try {
    const file = await openFile(path)
    try {
      const buffer = Buffer.alloc(FIRST_BYTES)
      bytes = buffer.subarray(0, (await file.read(buffer, 0, FIRST_BYTES, 0)).bytesRead)
    } finally {
      await file.close()
    }
  } catch (error) {
    throw new ModelError(`${path}: expected a file, found ${foundInstead(error)}`, { cause: error })
  }
  const text = bytes.toString('latin1')
  if (text.startsWith('GGUF')) return
  if (text.startsWith('version https://git-lfs'))
    throw new ModelError(`${path}: a Git LFS pointer, not the file itself; run git lfs pull in its folder`)
  // A safetensors file begins with the length of its JSON header.
  if (/\.safetensors$/i.test(path) || text.slice(8, 10) === '{"') {
    throw new ModelError(
      `${path}: found only the weights; give --model the folder that also has config.json and tokenizer.json: ${dirname(path)}`,
    )
  }
  if (/^\s*(<!doctype|<html)/i.test(text))
    throw new ModelError(`${path}: a web page, not a model; download the file itself`)
  throw new ModelError(`${path}: expected a GGUF file or a folder in Hugging Face layout, found neither`)
}
