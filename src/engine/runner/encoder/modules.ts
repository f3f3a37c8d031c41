/**
 * How a text's hidden states become a vector: the modules of a sentence-transformers folder (modules.json, and a folder for each module) as plain data.
 * A folder without modules.json gets a default pooling, and its vectors are scaled to length 1.
 */
import { join } from 'node:path'
import { dequantize } from '../../../kernels/dequantize.ts'
import type { Pooling } from '../../../kernels/ops.ts'
import { isJsonObject, type Json, readJsonList, readJsonObject } from '../../weights/json-file.ts'
import { openSafetensors } from '../../weights/safetensors.ts'
import { readMatrix, readVector } from '../../weights/source.ts'
import { ModelError } from '../runner.ts'
import type { Dense, HeadActivation } from './head.ts'

export interface TextModules {
  readonly pooling: Pooling
  /** Layers after the pooling, in order. */
  readonly dense: readonly Dense[]
  readonly isNormalized: boolean
  /** Prompts that are put before a text, by its role. */
  readonly prompts: { readonly query: string; readonly document: string; readonly plain: string }
  /** The most tokens that are read of a text, with special tokens; null: the model's own limit. */
  readonly maxTokens: number | null
  /** How many of a vector's first components are kept (truncate_dim); null: all. */
  readonly keptDimensions: number | null
}

const readObject = async (path: string): Promise<Json> => (await readJsonObject(path)) ?? {}

/** Reads the modules of a folder. @throws ModelError for an unknown module or pooling */
export async function readModules(folder: string, defaultPooling: Pooling): Promise<TextModules> {
  const [settings, tokenizer, prompts, list] = await Promise.all([
    readObject(join(folder, 'sentence_bert_config.json')),
    readObject(join(folder, 'tokenizer_config.json')),
    readObject(join(folder, CONFIG)),
    readJsonList(join(folder, 'modules.json')),
  ])
  const maxTokens = [settings['max_seq_length'], tokenizer['model_max_length']].find(
    // A tokenizer without a limit has 10^30 here.
    (length): length is number => typeof length === 'number' && length > 0 && length < 1e6,
  )
  const common = {
    prompts: promptsOf(prompts),
    maxTokens: maxTokens ?? null,
    keptDimensions: keptDimensions(join(folder, CONFIG), prompts),
  }
  if (list === null) return { ...common, pooling: defaultPooling, dense: [], isNormalized: true }
  let pooling: Pooling = 'mean'
  let isNormalized = false
  const dense: Dense[] = []
  for (const module of list) {
    const { type, path } = isJsonObject(module) ? module : {}
    const name = typeof type === 'string' ? type.slice(type.lastIndexOf('.') + 1) : ''
    const at = join(folder, typeof path === 'string' ? path : '')
    if (name === 'Pooling') pooling = poolingOf(join(at, 'config.json'), await readObject(join(at, 'config.json')))
    else if (name === 'Normalize') isNormalized = true
    else if (name === 'Dense') dense.push(await readDense(at))
    else if (name !== 'Transformer' && name !== 'Dropout') {
      throw new ModelError(
        `${join(folder, 'modules.json')}: type: expected Transformer, Pooling, Dense or Normalize, found ${JSON.stringify(type)?.slice(0, 80) ?? 'nothing'}`,
      )
    }
  }
  return { ...common, pooling, dense, isNormalized }
}

const CONFIG = 'config_sentence_transformers.json'

function keptDimensions(path: string, { truncate_dim: kept = null }: Json): number | null {
  if (kept === null || (typeof kept === 'number' && Number.isInteger(kept) && kept > 0)) return kept
  throw new ModelError(
    `${path}: truncate_dim: expected a positive integer, found ${JSON.stringify(kept)?.slice(0, 80)}`,
  )
}

/** The prompts for queries and documents, by their usual names. When prompts of other names apply is not known. */
function promptsOf(json: Json): TextModules['prompts'] {
  const { prompts, default_prompt_name: defaultName } = json
  const named = isJsonObject(prompts) ? prompts : {}
  const prompt = (...names: unknown[]): string => {
    const found = names
      .map((name) => (typeof name === 'string' ? named[name] : null))
      .find((text) => typeof text === 'string')
    return typeof found === 'string' ? found : ''
  }
  return {
    query: prompt('query', defaultName),
    document: prompt('document', 'passage', defaultName),
    plain: prompt(defaultName),
  }
}

const POOLINGS: Readonly<Record<string, Pooling>> = {
  mean: 'mean',
  mean_sqrt_len_tokens: 'rootMean',
  weightedmean: 'weightedMean',
  max: 'max',
  cls: 'first',
  lasttoken: 'last',
}

/** Fields in files of sentence-transformers before version 6, without their prefix `pooling_mode_`. */
const OLD_MODES: Readonly<Record<string, string>> = {
  cls_token: 'cls',
  mean_tokens: 'mean',
  max_tokens: 'max',
  mean_sqrt_len_tokens: 'mean_sqrt_len_tokens',
  weightedmean_tokens: 'weightedmean',
  lasttoken: 'lasttoken',
}

function poolingOf(path: string, json: Json): Pooling {
  const { pooling_mode: mode, include_prompt: includesPrompt } = json
  const modes =
    typeof mode === 'string'
      ? [mode]
      : Object.entries(OLD_MODES)
          .filter(([field]) => json[`pooling_mode_${field}`] === true)
          .map(([, name]) => name)
  const [only = '', ...others] = modes
  const pooling = Object.hasOwn(POOLINGS, only) ? POOLINGS[only] : undefined
  if (pooling === undefined || others.length > 0)
    throw new ModelError(
      `${path}: pooling_mode: expected one of ${Object.keys(POOLINGS).join(', ')}, found ${modes.join(' and ') || 'none'}`,
    )
  if (includesPrompt === false && pooling !== 'first' && pooling !== 'last')
    throw new ModelError(
      `${path}: include_prompt: expected true, found false; poolings that skip the prompt are not served`,
    )
  return pooling
}

const DENSE_ACTIVATIONS: Readonly<Record<string, HeadActivation>> = {
  Identity: 'none',
  Tanh: 'tanh',
  ReLU: 'relu',
  GELU: 'gelu',
}

async function readDense(folder: string): Promise<Dense> {
  const path = join(folder, 'config.json')
  const json = await readObject(path)
  const { in_features: cols, out_features: rows, bias, activation_function: activation } = json
  const name = typeof activation === 'string' ? activation.slice(activation.lastIndexOf('.') + 1) : 'Identity'
  const known = Object.hasOwn(DENSE_ACTIVATIONS, name) ? DENSE_ACTIVATIONS[name] : undefined
  if (typeof cols !== 'number' || typeof rows !== 'number' || known === undefined)
    throw new ModelError(
      `${path}: expected in_features, out_features and an activation_function of ${Object.keys(DENSE_ACTIVATIONS).join(', ')}`,
    )
  const source = await openSafetensors(folder)
  try {
    return {
      rows,
      cols,
      weight: dequantize(await readMatrix(source, 'linear.weight', rows, cols)),
      bias: bias === false ? null : await readVector(source, 'linear.bias', rows),
      activation: known,
    }
  } finally {
    await source.close()
  }
}
