/**
 * Opens LoRA adapters (arXiv 2106.09685): folders written by PEFT (adapter_config.json, adapter_model.safetensors;
 * https://huggingface.co/docs/peft/developer_guides/checkpoint), and GGUF files written by llama.cpp's converter.
 */
import { createHash } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { dequantize } from '../../kernels/dequantize.ts'
import { ModelError } from '../runner/runner.ts'
import type { DecoderSpec } from '../runner/decoder-spec.ts'
import { openGgufLora } from './gguf-lora.ts'
import { readJsonObject } from './json-file.ts'
import { exists } from './model-path.ts'
import { openSafetensors } from './safetensors.ts'
import type { TensorInfo, WeightSource } from './source.ts'

/** The update of one linear layer: W += scale up down. */
export interface LoraModule {
  /** The layer's name from `layers.` on, as `moduleKey` gives it. */
  readonly key: string
  readonly scale: number
  readonly down: TensorInfo // [rank, inputs]
  readonly up: TensorInfo // [outputs, rank]
}

export interface LoraFile {
  /** The folder or file, for messages. */
  readonly path: string
  /** Value heads are in the order of a GGUF file (gguf-states.ts). */
  readonly tilesKeyHeads: boolean
  readonly modules: ReadonlyMap<string, LoraModule>
  /** Identifies what the adapter computes: its tensors and scales. */
  readonly digest: string
  read(tensor: TensorInfo): Promise<Float32Array>
  close(): Promise<void>
}

/** The largest rank of an update. It bounds the buffers between both factors. */
const MAX_RANK = 512

/** The prefix before `layers.N.` in the names of decoders' modules. */
const PREFIX = /^(?:language_model\.)?(?:model\.)?(?:language_model\.)?(?=layers\.\d+\.)/

/** A common name for a checkpoint's linear layer and an adapter's update of it. */
export const moduleKey = (name: string): string => name.replace(PREFIX, '')

/** The scale of a module's update, given its full name and rank. @throws ModelError */
type ScaleOf = (module: string, rank: number) => number

/** Opens an adapter for a model of this spec. @throws ModelError that names the field, file or tensor at fault */
export async function openLora(path: string, spec: DecoderSpec): Promise<LoraFile> {
  let isFolder: boolean
  try {
    isFolder = (await stat(path)).isDirectory()
  } catch (error) {
    throw new ModelError(
      `${path} does not exist. Expected a PEFT folder (adapter_config.json, adapter_model.safetensors) or a .gguf adapter.`,
      { cause: error },
    )
  }
  return isFolder ? openPeft(path) : openGguf(path, spec)
}

async function openPeft(folder: string): Promise<LoraFile> {
  const scaleOf = await readPeftConfig(folder)
  const weights = join(folder, 'adapter_model.safetensors')
  if (!(await exists(weights))) {
    const hint = (await exists(join(folder, 'adapter_model.bin')))
      ? '; adapter_model.bin is Python code that is not run here: save the adapter with safe_serialization=True'
      : ''
    throw new ModelError(`${weights}: not found${hint}`)
  }
  const source = await openSafetensors(weights)
  const names = (name: string) => {
    const match = /^(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.\w+)?\.weight$/.exec(name)
    return match === null ? null : { module: match[1] ?? '', isDown: match[2] === 'A' }
  }
  return closingOnError(source, () => lora(source, folder, false, names, scaleOf))
}

async function openGguf(path: string, spec: DecoderSpec): Promise<LoraFile> {
  const { source, alpha, tilesKeyHeads } = await openGgufLora(path, spec)
  const names = (name: string) => {
    const match = /^(.+)\.weight\.lora_([ab])$/.exec(name)
    return match === null ? null : { module: match[1] ?? '', isDown: match[2] === 'a' }
  }
  return closingOnError(source, () =>
    lora(source, path, tilesKeyHeads, names, (_, rank) => (alpha === 0 ? 1 : alpha / rank)),
  )
}

async function closingOnError<T>(source: WeightSource, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    await source.close()
    throw error
  }
}

interface Factor {
  readonly module: string
  readonly isDown: boolean
}

async function lora(
  source: WeightSource,
  path: string,
  tilesKeyHeads: boolean,
  factorOf: (tensor: string) => Factor | null,
  scaleOf: ScaleOf,
): Promise<LoraFile> {
  const pairs = new Map<string, { down?: TensorInfo; up?: TensorInfo }>()
  for (const tensor of source.tensors.values()) {
    const factor = factorOf(tensor.name)
    if (factor === null) throw new ModelError(`${path}: tensor ${tensor.name} ${notServed(tensor.name)}`)
    const pair = pairs.get(factor.module) ?? {}
    pair[factor.isDown ? 'down' : 'up'] = tensor
    pairs.set(factor.module, pair)
  }
  if (pairs.size === 0) throw new ModelError(`${path}: expected tensors of an adapter, found none`)
  const modules = new Map<string, LoraModule>()
  for (const [module, { down, up }] of pairs) {
    const fail = (problem: string): never => {
      throw new ModelError(`${path}: ${module}: ${problem}`)
    }
    if (/(^|\.)(embed_tokens|lm_head)$/.test(module))
      fail('updates of the embedding and of the output layer are not served; updates of the layers between them are')
    if (down === undefined || up === undefined) return fail(`lora_${down === undefined ? 'A' : 'B'} is missing`)
    const [rank = 0] = down.shape
    if (down.shape.length === 3 && up.shape.length === 3)
      fail('updates of experts are not served; updates of attention and of dense MLPs are')
    if (down.shape.length !== 2 || up.shape.length !== 2)
      fail(`expected two matrices, found lora_A [${down.shape.join(', ')}] and lora_B [${up.shape.join(', ')}]`)
    if (up.shape[1] !== rank || rank === 0)
      fail(`lora_A [${down.shape.join(', ')}] and lora_B [${up.shape.join(', ')}] do not have the same rank`)
    if (rank > MAX_RANK) fail(`rank ${rank}, expected at most ${MAX_RANK}`)
    modules.set(moduleKey(module), { key: moduleKey(module), scale: scaleOf(module, rank), down, up })
  }
  const hash = createHash('sha256')
  for (const { key, scale, down, up } of modules.values()) {
    hash.update(JSON.stringify([key, scale]))
    for (const tensor of [down, up]) {
      const values = await values32(source, tensor)
      hash.update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
    }
  }
  return {
    path,
    tilesKeyHeads,
    modules,
    digest: hash.digest('hex'),
    read: (tensor) => values32(source, tensor),
    close: () => source.close(),
  }
}

async function values32(source: WeightSource, { name }: TensorInfo): Promise<Float32Array> {
  return dequantize(await source.read(name))
}

/** Why a tensor that is not a factor of a linear layer is refused. */
function notServed(name: string): string {
  if (name.includes('lora_magnitude_vector'))
    return 'belongs to DoRA, which is not served: merge the adapter into its model'
  if (name.includes('lora_embedding_')) return 'updates an embedding, which is not served'
  if (name.includes('.lora_'))
    return 'belongs to a kind of update that is not served: expected lora_A and lora_B of linear layers'
  return 'is not an update of a linear layer: fully trained layers (modules_to_save) are not served'
}

/** Fields of adapter_config.json that change what an adapter computes, with the values that are served. */
const PLAIN: Readonly<Record<string, { readonly is: (value: unknown) => boolean; readonly expected: string }>> = {
  peft_type: { is: (value) => value === 'LORA', expected: '"LORA"' },
  bias: { is: (value) => value === undefined || value === 'none', expected: '"none": trained biases are not served' },
  use_dora: { is: (value) => value !== true, expected: 'false: DoRA is not served, merge the adapter into its model' },
  lora_bias: { is: (value) => value !== true, expected: 'false: biases of updates are not served' },
  layer_replication: { is: isAbsent, expected: 'null: replicated layers are not served' },
  alora_invocation_tokens: { is: isAbsent, expected: 'null: adapters that begin within a prompt are not served' },
  use_qalora: { is: (value) => value !== true, expected: 'false: QA-LoRA is not served' },
  use_bdlora: { is: (value) => isAbsent(value) || value === false, expected: 'null: BD-LoRA is not served' },
  trainable_token_indices: { is: isAbsent, expected: 'null: trained embeddings are not served' },
}

function isAbsent(value: unknown): boolean {
  return value === undefined || value === null || (Array.isArray(value) && value.length === 0)
}

/** The scales from adapter_config.json: alpha / r, or alpha / sqrt(r) with use_rslora. Patterns may give modules their own r and alpha. */
async function readPeftConfig(folder: string): Promise<ScaleOf> {
  const path = join(folder, 'adapter_config.json')
  const config = await readJsonObject(path)
  if (config === null) throw new ModelError(`${path}: not found; expected a folder as PEFT saves an adapter`)
  const fail = (field: string, expected: string): never => {
    const found = JSON.stringify(config[field]) ?? 'nothing'
    throw new ModelError(`${path}: ${field}: expected ${expected}; found ${found.slice(0, 80)}`)
  }
  for (const [field, { is, expected }] of Object.entries(PLAIN)) if (!is(config[field])) fail(field, expected)
  const positive = (field: string): number => {
    const value = config[field]
    return typeof value === 'number' && value > 0 ? value : fail(field, 'a number above 0')
  }
  const [rank, alpha] = [positive('r'), positive('lora_alpha')]
  const [ranks, alphas] = [pattern(config['rank_pattern']), pattern(config['alpha_pattern'])]
  if (ranks === null) return fail('rank_pattern', 'an object of numbers by module names')
  if (alphas === null) return fail('alpha_pattern', 'an object of numbers by module names')
  return (module, found) => {
    const expected = ranks(module) ?? rank
    if (found !== expected)
      throw new ModelError(`${folder}: ${module}: rank ${found}, expected ${expected} by adapter_config.json`)
    const own = alphas(module) ?? alpha
    return own / (config['use_rslora'] === true ? Math.sqrt(found) : found)
  }
}

/** PEFT's patterns: the value of the first key that matches the module's name, or its end after a dot; null: the value is not a pattern. */
function pattern(value: unknown): ((module: string) => number | undefined) | null {
  if (value === undefined || value === null) return () => undefined
  if (typeof value !== 'object' || Array.isArray(value)) return null
  const rows: (readonly [RegExp, number])[] = []
  for (const [key, number] of Object.entries(value)) {
    if (typeof number !== 'number' || !(number > 0)) return null
    try {
      rows.push([new RegExp(`^(?:.*\\.)?(?:${key})$`), number])
    } catch {
      return null
    }
  }
  return (module) => rows.find(([key]) => key.test(module))?.[1]
}
