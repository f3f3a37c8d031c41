/** Loads the engines that the configuration names, local or remote, and the files next to their models' weights. */
import { existsSync } from 'node:fs'
import { access, constants, readdir, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { makeFolder } from './regular-file.ts'
import { z } from 'zod'
import type { Config } from './config.ts'
import { loadChatTemplate } from './engine/chat/chat-template.ts'
import { createEngine } from './engine/engine.ts'
import type { KvTiers } from './engine/kv/kv-tiers.ts'
import type { Engine } from './engine/request.ts'
import {
  type AdapterRequest,
  ModelError,
  type ModelInfo,
  type ModelRequest,
  RunnerError,
} from './engine/runner/runner.ts'
import { createLastingRunner } from './engine/runner/worker-runner.ts'
import { loadSamplingDefaults, type SamplingDefaults } from './engine/sampling-defaults.ts'
import { loadTokenizer, type Tokenizer } from './engine/tokenizer/tokenizer.ts'
import { readJsonObject } from './engine/weights/json-file.ts'
import type { Log } from './observability/log.ts'
import { untilAborted } from './promises.ts'
import { createProgress } from './progress.ts'
import { type PromptTemplate, promptTemplate } from './rag/prompt.ts'

/** The folder of this package, and in it the folder of models. */
export const PACKAGE = fileURLToPath(new URL('..', import.meta.url))
export const MODELS = join(PACKAGE, 'models')

/** The language model that comes with this package (models/README.md). */
const BUNDLED_MODEL = join(MODELS, 'mini-1m')

/** An engine, and what was read from the files next to its model's weights. A remote engine has no such files. */
interface Loaded {
  readonly engine: Engine
  readonly samplingDefaults: SamplingDefaults
  readonly promptTemplate: PromptTemplate | null
}

/** A model's served name, and its location: a path or a hub id. */
interface NamedModel {
  readonly name: string
  readonly location: string
  /** The LoRA adapters that `--lora` gives for it. */
  readonly adapters: readonly AdapterRequest[]
}

/** Model names that requests can use in a body and in the path after /v1/models/. "." and ".." are not allowed as parts: URLs resolve them. */
const MODEL_NAME = /^(?!\.{1,2}(?:\/|$))[\w.:@-]+(?:\/(?!\.{1,2}(?:\/|$))[\w.:@-]+)*$/
const MAX_NAME_LENGTH = 128
const isModelName = (name: string): boolean => name.length <= MAX_NAME_LENGTH && MODEL_NAME.test(name)

/** Splits NAME=PATH. @throws ModelError when the name or the path is missing, or requests could not use the name. */
function splitName(value: string): Omit<NamedModel, 'adapters'> {
  const equals = value.indexOf('=')
  const name = value.slice(0, equals)
  const location = value.slice(equals + 1).trim()
  if (!isModelName(name))
    throw new ModelError(
      `--model NAME=PATH: expected a name of 1 to ${MAX_NAME_LENGTH} characters (letters, digits and ._:@-, with / between parts), found ${name === '' ? 'none' : 'another'}`,
    )
  if (location === '') throw new ModelError(`--model ${name}=: expected a path or a hub id behind the name, found none`)
  return { name, location }
}

/** The local models that the configuration names, or the bundled one. @throws ModelError when two have the same name */
export function modelsOf({
  models,
  servedModelName,
  lora,
}: Pick<Config, 'models' | 'servedModelName' | 'lora'>): readonly NamedModel[] {
  if (models.length > 1 && servedModelName !== null)
    throw new ModelError('--served-model-name: expected one model; give each of several its own: --model NAME=PATH')
  const named = (models.length > 0 ? models : [BUNDLED_MODEL]).map((value) => {
    // An existing path may itself contain an equals sign.
    if (value.includes('=') && !existsSync(value)) return splitName(value)
    return { name: servedModelName ?? nameOf(value), location: value }
  })
  const names = named.map(({ name }) => name)
  const twice = names.find((name, i) => names.indexOf(name) < i)
  if (twice !== undefined)
    throw new ModelError(`--model: two models are called ${twice}; name them apart: --model NAME=PATH`)
  const adapters = adaptersOf(lora, names)
  return named.map((model) => ({
    ...model,
    adapters: adapters.filter(({ model: own }) => own === model.name).map(({ name, path }) => ({ name, path })),
  }))
}

const ADAPTER = /^([\w.:/-]+)(?:@([\w.:/@-]+))?=(.+)$/

/** The adapters of `--lora`, by model. Adapters and models share one set of names. @throws ModelError for a name used twice */
function adaptersOf(
  lora: readonly string[],
  models: readonly string[],
): readonly (AdapterRequest & { readonly model: string })[] {
  const taken = new Set(models)
  return lora.map((value) => {
    const [, name, model = models.length === 1 ? models[0] : undefined, path = ''] = ADAPTER.exec(value) ?? []
    const known = models.map((each) => `"${each}"`).join(', ')
    if (name === undefined || !isModelName(name))
      throw new ModelError(`--lora: expected NAME=PATH, or NAME@MODEL=PATH with several models; found ${value}`)
    if (model === undefined)
      throw new ModelError(
        `--lora ${name}: expected the model that it is for: --lora ${name}@MODEL=PATH with one of ${known}`,
      )
    if (!models.includes(model)) throw new ModelError(`--lora ${name}: no model is called ${model}; there are ${known}`)
    if (taken.has(name)) throw new ModelError(`--lora ${name}: a model or another adapter has this name; take another`)
    taken.add(name)
    return { name, model, path }
  })
}

const nameOf = (location: string): string =>
  existsSync(location) ? basename(resolve(location)).replace(/\.gguf$/i, '') : location

/** Bytes of a model's weights on disk; null when it must be downloaded first. */
export async function weightBytesOf({ location }: NamedModel): Promise<number | null> {
  if (!existsSync(location)) return null
  const isFolder = (await stat(location)).isDirectory()
  const folder = isFolder ? location : dirname(location)
  const parts = basename(location).replace(/-\d{5}-of-\d{5}\.gguf$/i, '')
  const files = (await readdir(folder)).filter((file) =>
    isFolder ? /\.(safetensors|gguf)$/i.test(file) : file === basename(location) || file.startsWith(`${parts}-`),
  )
  const sizes = await Promise.all(files.map(async (file) => (await stat(join(folder, file))).size))
  return sizes.reduce((sum, size) => sum + size, 0)
}

interface LoadControl {
  /** Called with the reason when the device or its thread has failed, whether or not a restart may succeed (`--on-fatal exit`). */
  readonly onFatal?: (reason: string) => void
  /** Aborts loading; a runner that has already loaded is closed. */
  readonly signal?: AbortSignal
}

/** Connects to the remote engines that the configuration names. @throws ModelError if one cannot serve */
export async function loadRemoteEngine(config: Config, logger: Log): Promise<Loaded> {
  const { createRemoteEngine } = await import('./remote/connect.ts')
  const engine = await createRemoteEngine({
    urls: config.engineUrls,
    apiKey: config.engineApiKey,
    // With local models too, --served-model-name names a local model, not the remote one.
    model: config.models.length > 0 ? null : config.servedModelName,
    onError: (where, error) => logger.error('engine.problem', { where, error }),
  })
  return { engine, samplingDefaults: {}, promptTemplate: null }
}

/** Loads a model and creates its engine. @throws ModelError for a checkpoint that cannot serve */
export async function loadEngine(
  config: Config,
  { name, location, adapters }: NamedModel,
  logger: Log,
  { onFatal = () => {}, signal }: LoadControl = {},
): Promise<Loaded> {
  const onError = (where: string, error: unknown) => logger.error('engine.problem', { where, error })
  const located = Promise.all(
    adapters.map(async (own) => ({ ...own, path: await locate(config, own.path, 'adapter') })),
  )
  located.catch(() => {})
  const path = await untilAborted(locate(config, location, 'model'), signal)
  const localAdapters = await untilAborted(located, signal)
  const progress = createProgress(process.stderr, 'loading weights')
  const runner = createLastingRunner()
  signal?.addEventListener('abort', () => void runner.close(), { once: true })
  try {
    // The tokenizer loads while another thread reads the weights. If both fail, the error of the weights is reported.
    const tokenizing = loadTokenizer(path)
    tokenizing.catch(() => {})
    const loaded = await runner.load({ ...modelRequest(config, path), adapters: localAdapters }, progress.update)
    for (const notice of loaded.notices) logger.warn('model.notice', { notice })
    const tokenizer = await tokenizing
    const modelInfo = { ...loaded, eosTokenIds: endIdsOf(loaded, tokenizer, logger) }
    if (tokenizer.vocabSize > modelInfo.vocabSize) {
      throw new ModelError(
        `${path}: the tokenizer has ${tokenizer.vocabSize} tokens, expected at most the model's ${modelInfo.vocabSize}; check that both belong together`,
      )
    }
    const samplingDefaults = await loadSamplingDefaults(path)
    const promptTemplate = await loadPromptTemplate(path)
    const engine = createEngine({
      runner,
      modelInfo,
      tokenizer,
      chatTemplate: await loadChatTemplate(path, tokenizer, config.chatTemplate),
      kvTiers: await kvTiersOf(config, modelInfo, logger),
      options: {
        modelName: name,
        maxNumSeqs: config.maxNumSeqs,
        prefixCaching: config.prefixCaching,
        runAhead: config.runAhead === 0 ? 0 : 1,
        speculation: config.speculation,
        maxPrefillMs: config.maxPrefillMs,
        maxQueuedRequests: config.maxQueuedRequests,
        maxQueuedTokens: config.maxQueuedTokens,
        toolCallParser: config.toolCallParser,
        reasoningParser: config.reasoningParser,
        onError,
        onProblem: (problem) => {
          if (problem === null) logger.info('engine.recovered')
          else
            logger.error('engine.problem', { where: 'runner', error: new RunnerError('device_lost', problem.reason) })
          // Even if the engine could be restarted: with an exit requested, something outside restarts the process.
          if (problem !== null) onFatal(problem.reason)
        },
      },
    })
    return { engine, samplingDefaults, promptTemplate }
  } catch (error) {
    await runner.close()
    throw error
  } finally {
    progress.end()
  }
}

/** All tokens that end an answer according to any of the model's files. Without one, answers end only at their length limit. */
function endIdsOf({ eosTokenIds, vocabSize }: ModelInfo, tokenizer: Tokenizer, logger: Log): number[] {
  const named = new Set([...eosTokenIds, ...tokenizer.endOfTurnIds])
  const possible = [...named].filter((id) => id < vocabSize)
  if (possible.length < named.size)
    logger.warn('model.eos_ignored', { ids: [...named].filter((id) => id >= vocabSize), vocab_size: vocabSize })
  if (possible.length === 0) logger.warn('model.no_end', { vocab_size: vocabSize })
  return possible
}

/** Creates the folder that a flag names and checks that it is writable. @throws ModelError */
async function requireWritable(flag: string, folder: string): Promise<void> {
  try {
    makeFolder(folder, 0o700)
    await access(folder, constants.W_OK)
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : String(error)
    throw new ModelError(`${flag} ${folder}: cannot be written (${code}); name a folder that this user may write`, {
      cause: error,
    })
  }
}

/** The KV tiers that take evicted KV blocks; null when none is configured. */
async function kvTiersOf(config: Config, modelInfo: ModelInfo, logger: Log): Promise<KvTiers | null> {
  if (!config.prefixCaching || (config.kvHostMemoryBytes === 0 && config.kvCacheDir === null)) return null
  if (config.kvCacheDir !== null) await requireWritable('--kv-cache-dir', config.kvCacheDir)
  if (modelInfo.numStateSlots > 0) {
    logger.warn('model.notice', {
      notice:
        'this model keeps a state for each sequence, which KV tiers cannot store: --kv-host-memory and --kv-cache-dir have no effect',
    })
    return null
  }
  const { openKvTiers } = await import('./engine/kv/kv-tiers.ts')
  return openKvTiers({
    hostMemoryBytes: config.kvHostMemoryBytes,
    directory: config.kvCacheDir,
    maxDiskBytes: config.kvCacheMaxBytes,
    fingerprint: modelInfo.fingerprint,
    blockSize: modelInfo.blockSize,
    blockBytes: modelInfo.blockBytes,
    onLog: (detail, fields) => logger.warn('kv.tier', { detail, ...fields }),
  })
}

/** The folder or file of a model or an adapter; downloads it when the location is a hub id. @throws ModelError */
async function locate(config: Config, location: string, what: 'model' | 'adapter'): Promise<string> {
  const { fetchAdapter, fetchModel } = await import('./engine/weights/hub.ts')
  const progress = createProgress(process.stderr, 'downloading')
  try {
    const options = {
      cacheDir: config.hfHubCache,
      token: config.hfToken,
      endpoint: config.hfEndpoint,
      offline: config.hfOffline,
      onProgress: progress.update,
    }
    return what === 'adapter' ? await fetchAdapter(location, options) : (await fetchModel(location, options)).path
  } finally {
    progress.end()
  }
}

/** The request for the runner to load the model at `path`. */
function modelRequest(config: Config, path: string): ModelRequest {
  return {
    path,
    device: config.device,
    quantization: config.quantization,
    kvCacheDtype: config.kvCacheDtype,
    maxModelLen: config.maxModelLen,
    maxNumSeqs: config.maxNumSeqs,
    maxNumBatchedTokens: config.maxNumBatchedTokens,
    blockSize: config.blockSize,
    numKvBlocks: config.numKvBlocks,
    kvCacheMemory: config.kvCacheMemory,
    speculation: config.speculation,
    threads: config.threads,
    traceKernels: config.traceDetail === 'kernels',
    cacheDir: config.cacheDir,
  }
}

/** Reads prompt.json of a model folder: the template for documents and question in retrieval. null: the model has none. */
async function loadPromptTemplate(modelPath: string): Promise<PromptTemplate | null> {
  const path = join(modelPath, 'prompt.json')
  const json = await readJsonObject(path)
  if (json === null) return null
  const { data, error } = promptTemplate.safeParse(json)
  if (data) return data
  const why = z.prettifyError(error).replaceAll('\n', ' ')
  throw new ModelError(`${path}: expected a prompt template, found something else: ${why}`, { cause: error })
}
