/** Checkpoints and adapters that cannot be served: each is refused with a ModelError that names what is wrong. */
import { cpSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, it } from 'vitest'
import { parseCommandLine } from './config.ts'
import { loadEngine, modelsOf } from './model-loading.ts'
import type { Log } from './observability/log.ts'

const folder = mkdtempSync(join(tmpdir(), 'miniserve-models-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const ignore = () => {}
const log: Log = { trace: ignore, debug: ignore, info: ignore, warn: ignore, error: ignore, fatal: ignore }
const configOf = (...args: string[]) =>
  parseCommandLine(['--device', 'reference', '--log-file', '', ...args], { HOME: folder }).config

const bundled = modelsOf(configOf())[0]?.location ?? ''

/** A copy of the bundled model, damaged. */
function broken(name: string, damage: (path: string) => void): string {
  const path = join(folder, name.replaceAll(' ', '-'))
  cpSync(bundled, path, { recursive: true })
  damage(path)
  return path
}

function edit(path: string, change: (config: Record<string, unknown>) => void): void {
  const file = join(path, 'config.json')
  const config = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>
  change(config)
  writeFileSync(file, JSON.stringify(config))
}

const weights = (path: string) => join(path, 'model.safetensors')

it.each<[string, (path: string) => void, RegExp]>([
  ['truncated weights', (path) => truncateSync(weights(path), 100_000), /model\.safetensors/],
  ['a header of nonsense', (path) => writeFileSync(weights(path), Buffer.alloc(64, 0xff)), /model\.safetensors/],
  ['no config', (path) => rmSync(join(path, 'config.json')), /config\.json/],
  ['a config that is not JSON', (path) => writeFileSync(join(path, 'config.json'), '{'), /config\.json/],
  ['another hidden size', (path) => edit(path, (config) => (config['hidden_size'] = 256)), /found \[/],
  [
    'more layers than weights',
    (path) => edit(path, (config) => (config['num_hidden_layers'] = 60)),
    /expected|missing/,
  ],
  [
    'an unknown architecture',
    (path) =>
      edit(path, (config) => Object.assign(config, { architectures: ['MambaForCausalLM'], model_type: 'mamba' })),
    /[Mm]amba/,
  ],
  ['no tokenizer', (path) => rmSync(join(path, 'tokenizer.json')), /tokenizer\.json/],
])('%s', async (name, damage, message) => {
  const location = broken(name, damage)
  const error: unknown = await loadEngine(configOf('--model', location), { name, location, adapters: [] }, log).catch(
    (e: unknown) => e,
  )
  expect(error).toMatchObject({ name: 'ModelError', message: expect.stringMatching(message) as string })
})

const golden = (name: string): string => fileURLToPath(new URL(`../test/golden/${name}`, import.meta.url))
const TINY = ['--model', `tiny=${golden('models/tiny-text')}`]

it.each<[string, string[], RegExp]>([
  [
    'of another model',
    ['--lora', `x=${golden('adapters/phi3-fused')}`],
    /^--lora x: .*phi3-fused: layers\.\d.*is the adapter for another model\?/,
  ],
  [
    'that is not there',
    ['--lora', `x=${golden('adapters/none')}`],
    /adapters\/none does not exist\. Expected a PEFT folder/,
  ],
  [
    "with its model's name",
    ['--lora', `tiny=${golden('adapters/tiny-text-a')}`],
    /^--lora tiny: a model or another adapter has this name/,
  ],
  ['without a name', ['--lora', golden('adapters/tiny-text-a')], /^--lora: expected NAME=PATH/],
  [
    'for one of two models',
    ['--model', `big=${bundled}`, '--lora', `a=${golden('adapters/tiny-text-a')}`],
    /^--lora a: expected the model that it is for: --lora a@MODEL=PATH with one of "tiny", "big"/,
  ],
])('an adapter %s', async (_, args, message) => {
  const load = async () => {
    const config = configOf(...TINY, ...args)
    const [model] = modelsOf(config)
    if (model) await loadEngine(config, model, log)
  }
  await expect(load()).rejects.toMatchObject({
    name: 'ModelError',
    message: expect.stringMatching(message) as string,
  })
})

it('refuses two models of one name', () => {
  expect(() => modelsOf(configOf('--model', `a=${bundled}`, '--model', `a=${bundled}`))).toThrow(
    /^--model: two models are called a/,
  )
})
