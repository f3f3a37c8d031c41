/** Adapters that are refused, each with an error that names the field, file or tensor. What adapters compute is tested in test/golden. */
import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readSpec } from '../runner/spec.ts'
import { moduleKey, openLora } from './lora.ts'

const GOLDEN = fileURLToPath(new URL('../../../test/golden/', import.meta.url))
let folder = ''
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'miniserve-lora-'))))
afterAll(() => rmSync(folder, { recursive: true }))

const spec = await readSpec(join(GOLDEN, 'models/llama'))

/** A changed copy of an adapter. */
function edited(name: string, change: (path: string) => void): string {
  const path = join(folder, name.replaceAll(/\W+/g, '-'))
  cpSync(join(GOLDEN, 'adapters/llama-patterns'), path, { recursive: true })
  change(path)
  return path
}

const config =
  (fields: object) =>
  (path: string): void => {
    const file = join(path, 'adapter_config.json')
    writeFileSync(file, JSON.stringify({ ...(JSON.parse(readFileSync(file, 'utf8')) as object), ...fields }))
  }

/** Replaces a part of tensors' names by another of the same length. */
const rename =
  (from: string, to: string) =>
  (path: string): void => {
    const file = join(path, 'adapter_model.safetensors')
    const bytes = readFileSync(file)
    for (let at = bytes.indexOf(from); at >= 0; at = bytes.indexOf(from, at + 1)) bytes.write(to, at, 'latin1')
    writeFileSync(file, bytes)
  }

test.each<readonly [string, (path: string) => void, RegExp]>([
  ['another method', config({ peft_type: 'IA3' }), /adapter_config\.json: peft_type: expected "LORA"; found "IA3"$/],
  ['DoRA', config({ use_dora: true }), /use_dora: expected false: DoRA is not served/],
  ['biases', config({ bias: 'all' }), /bias: expected "none".*found "all"$/],
  ['no alpha', config({ lora_alpha: undefined }), /lora_alpha: expected a number above 0; found nothing$/],
  ['a broken pattern', config({ rank_pattern: { '(': 4 } }), /rank_pattern: expected an object of numbers/],
  ['ranks of another', config({ r: 6 }), /rank 5, expected 6 by adapter_config\.json$/],
  ['no config', (path) => rmSync(join(path, 'adapter_config.json')), /adapter_config\.json: not found/],
  [
    'a named pipe as its config',
    (path) => {
      rmSync(join(path, 'adapter_config.json'))
      execFileSync('mkfifo', [join(path, 'adapter_config.json')])
    },
    /adapter_config\.json: expected a file, found a named pipe$/,
  ],
  [
    'a config that is cut',
    (path) => writeFileSync(join(path, 'adapter_config.json'), '{'),
    /expected JSON, found something else/,
  ],
  [
    'a config that is null',
    (path) => writeFileSync(join(path, 'adapter_config.json'), 'null'),
    /adapter_config\.json: expected a JSON object, found null$/,
  ],
  [
    'weights as Python code',
    (path) => renameSync(join(path, 'adapter_model.safetensors'), join(path, 'adapter_model.bin')),
    /adapter_model\.bin is Python code that is not run here: save the adapter with safe_serialization=True$/,
  ],
  [
    'a layer trained whole',
    rename('0.mlp.up_proj.lora_A', '0.mlp.up_proj.whole_'),
    /up_proj\.whole_\.weight is not an update/,
  ],
  ['an embedding', rename('model.layers.0.mlp.up_proj.', 'model.layers.0.embed_tokens'), /embed/],
  ['half of an update', rename('0.mlp.up_proj.lora_A', '0.mlp.up_prox.lora_A'), /up_pro[jx]: lora_[AB] is missing$/],
  [
    'a flat matrix',
    rename('[5,48]', '[ 240]'),
    /down_proj: expected two matrices, found lora_A \[240\] and lora_B \[32, 5\]$/,
  ],
])('%s', async (name, change, message) => {
  await expect(openLora(edited(name, change), spec)).rejects.toThrow(message)
})

test('a GGUF file of a model is refused as an adapter; the error for a missing path says what was expected', async () => {
  await expect(openLora(join(GOLDEN, 'gguf/llama-bf16.gguf'), spec)).rejects.toThrow(/a model, expected an adapter/)
  await expect(openLora(join(folder, 'none'), spec)).rejects.toThrow(/does not exist\. Expected a PEFT folder/)
})

test('layers of a model and of an adapter have one name, whatever their prefix', () => {
  const keys = ['', 'model.', 'model.language_model.', 'language_model.model.'].map((prefix) =>
    moduleKey(`${prefix}layers.3.self_attn.q_proj`),
  )
  expect(new Set(keys)).toEqual(new Set(['layers.3.self_attn.q_proj']))
  expect(moduleKey('vision_tower.layers.3.self_attn.q_proj')).not.toBe('layers.3.self_attn.q_proj')
})
