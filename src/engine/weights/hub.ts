/**
 * Finds the local path of a model given as a hub id. What the standard Hugging Face cache holds is used without any request. What it lacks is downloaded
 * into the cache's own layout (models--ORG--NAME/{refs, blobs, snapshots}), so that other tools can use it too.
 */
import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { makeFolder } from '../../regular-file.ts'
import { ModelError, type ProgressListener } from '../runner/runner.ts'
import { readJsonObject } from './json-file.ts'
import { exists, localModel, partsOf } from './model-path.ts'
import { type Blob, fetchBlob, type HubClient, linkBlob, describeBlob, requestHub } from './hub-download.ts'

/** The hub of models, and its cache on this machine. */
export interface HubOptions {
  /** The hub folder of the cache ($HF_HOME/hub). */
  readonly cacheDir: string
  readonly token: string | null
  /** https://huggingface.co, or a mirror. */
  readonly endpoint: string
  /** Send no request to the hub. */
  readonly offline: boolean
  readonly onProgress?: ProgressListener
}

interface ResolvedModel {
  /** A folder in Hugging Face layout or a .gguf file. */
  readonly path: string
  /** The model's name in /v1/models. */
  readonly name: string
}

/** ORG/NAME, or ORG/NAME:QUANT for one of a repository's GGUF files, with an optional prefix hf:. */
const HUB_ID = /^(?:hf:)?([\w-][\w.-]*)\/([\w-][\w.-]*?)(?::([\w.-]+))?$/
const REVISION = 'main'
/** Small files of a model that are downloaded if the repository has them. */
const SIDE_FILES = new Set([
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'chat_template.jinja',
  'model.safetensors.index.json',
  'prompt.json',
  'modules.json',
  'sentence_bert_config.json',
  'config_sentence_transformers.json',
])
/** Files of sentence-transformers modules, such as 1_Pooling. */
const MODULE_FILE = /^\d+_\w+\/(config\.json|model\.safetensors)$/
/** The order in which a GGUF file is chosen when none is named. */
const GGUF_PREFERENCE = ['Q4_K_M', 'Q8_0', 'Q4_0', 'Q6_K', 'Q5_K_M', 'F16', 'BF16'] as const

/** The local path of a model given as a folder, a .gguf file or a hub id. Downloads what is missing. @throws ModelError */
export async function fetchModel(model: string, options: HubOptions): Promise<ResolvedModel> {
  try {
    await stat(model)
  } catch {
    return resolveHubId(model, options)
  }
  return { path: await localModel(model), name: basename(resolve(model)).replace(/\.gguf$/i, '') }
}

/**
 * The local path of a LoRA adapter given as a folder, a file or hf:ORG/NAME. Downloads what is missing. A path that does not exist is returned as it
 * is: `openLora` reports it.
 * @throws ModelError
 */
export async function fetchAdapter(location: string, options: HubOptions): Promise<string> {
  const match = location.startsWith('hf:') && !(await exists(location)) ? HUB_ID.exec(location) : null
  if (match === null) return location
  const [, org = '', name = '', quant = null] = match
  const repository = new Repository(`${org}/${name}`, options, ADAPTER)
  return (await repository.findCached(quant)) ?? (await repository.download(quant))
}

async function resolveHubId(model: string, options: HubOptions): Promise<ResolvedModel> {
  const match = HUB_ID.exec(model)
  if (match === null) {
    throw new ModelError(
      `--model ${model}: no such folder or file, and not a hub id (ORG/NAME, or ORG/NAME:QUANT for a GGUF file)`,
    )
  }
  const [, org = '', name = '', quant = null] = match
  const repository = new Repository(`${org}/${name}`, options, MODEL)
  const path = (await repository.findCached(quant)) ?? (await repository.download(quant))
  return { path, name: model }
}

/** Chooses from a repository's files those that serving needs. @throws ModelError if there are no weights among them */
export function chooseFiles(
  id: string,
  files: readonly string[],
  quant: string | null,
): { files: string[]; gguf: string | null } {
  const top = files.filter((file) => basename(file) === file)
  const side = [...top.filter((file) => SIDE_FILES.has(file)), ...files.filter((file) => MODULE_FILE.test(file))]
  const weights = top.filter((file) => /^model(-\d+-of-\d+)?\.safetensors$/.test(file))
  if (weights.length > 0 && quant === null) return { files: [...side, ...weights], gguf: null }
  const isWhole = (file: string): boolean => {
    const parts = partsOf(file)
    // A split file is known by its first part, and complete if all parts are listed.
    return parts === null || (parts[0] === file && parts.every((part) => top.includes(part)))
  }
  const ggufs = top.filter((file) => file.endsWith('.gguf') && !file.startsWith('mmproj') && isWhole(file))
  const named = (name: string): string | undefined =>
    ggufs.find((file) => file.toUpperCase().includes(name.toUpperCase()))
  const gguf =
    quant !== null
      ? named(quant)
      : (GGUF_PREFERENCE.map(named).find((file) => file !== undefined) ?? (ggufs.length === 1 ? ggufs[0] : undefined))
  if (gguf === undefined) {
    const offered = ggufs.length > 0 ? `; it has ${ggufs.join(', ')}` : ''
    throw new ModelError(
      quant !== null
        ? `${id} has no GGUF file with ${quant} in its name${offered}`
        : `${id} has no weights that can be served: expected model.safetensors, its shards, or a .gguf file${offered}`,
    )
  }
  return { files: partsOf(gguf) ?? [gguf], gguf }
}

/** Which files of a repository are served. */
interface Contents {
  /** Chooses among the repository's files; `gguf` is the file to serve, or null for the folder. @throws ModelError if something is missing */
  choose(id: string, files: readonly string[], quant: string | null): ReturnType<typeof chooseFiles>
  /** The files of a complete folder in the cache. */
  required(snapshot: string, files: readonly string[]): Promise<readonly string[]>
}

const MODEL: Contents = {
  choose: chooseFiles,
  required: async (snapshot, files) => ['config.json', 'tokenizer.json', ...(await shardsOf(snapshot, files))],
}

const ADAPTER_FILES = ['adapter_config.json', 'adapter_model.safetensors']

const ADAPTER: Contents = {
  choose(id, files, quant) {
    if (quant === null && ADAPTER_FILES.every((file) => files.includes(file)))
      return { files: ADAPTER_FILES, gguf: null }
    const ggufs = files.filter((file) => basename(file) === file && file.endsWith('.gguf'))
    const named = ggufs.filter((file) => quant === null || file.toUpperCase().includes(quant.toUpperCase()))
    const [gguf] = named
    if (gguf !== undefined && named.length === 1) return { files: [gguf], gguf }
    throw new ModelError(
      `${id} has no adapter that can be served: expected ${ADAPTER_FILES.join(' and ')}, or one .gguf file` +
        `${quant === null ? '' : ` with ${quant} in its name`}; it has ${ggufs.length === 0 ? 'none' : ggufs.join(', ')}`,
    )
  },
  required: () => Promise.resolve(ADAPTER_FILES),
}

async function shardsOf(snapshot: string, names: readonly string[]): Promise<string[]> {
  if (!names.includes('model.safetensors.index.json')) return ['model.safetensors']
  try {
    const index = await readJsonObject(join(snapshot, 'model.safetensors.index.json'))
    return [...new Set(Object.values(Object(index?.['weight_map']) as Record<string, string>))]
  } catch {
    // A damaged index is reported with its name when the model is opened.
    return []
  }
}

class Repository {
  readonly #contents: Contents
  readonly #id: string
  readonly #options: HubOptions
  readonly #folder: string

  constructor(id: string, options: HubOptions, contents: Contents) {
    this.#contents = contents
    this.#id = id
    this.#options = options
    this.#folder = join(options.cacheDir, `models--${id.replace('/', '--')}`)
  }

  /** The path to serve from the cache; null: something is missing. */
  async findCached(quant: string | null): Promise<string | null> {
    let snapshot: string
    let names: string[]
    try {
      const sha = (await readFile(join(this.#folder, 'refs', REVISION), 'utf8')).trim()
      snapshot = join(this.#folder, 'snapshots', basename(sha))
      names = []
      // A link to a blob that is gone counts as missing.
      for (const name of await readdir(snapshot)) {
        if (await exists(join(snapshot, name))) names.push(name)
      }
    } catch {
      return null
    }
    let chosen: ReturnType<typeof chooseFiles>
    try {
      chosen = this.#contents.choose(this.#id, names, quant)
    } catch {
      return null
    }
    if (chosen.gguf !== null) return join(snapshot, chosen.gguf)
    const required = await this.#contents.required(snapshot, names)
    return required.every((file) => names.includes(file)) ? snapshot : null
  }

  /** Downloads what is missing, and returns the path to serve. */
  async download(quant: string | null): Promise<string> {
    if (this.#options.offline) {
      throw new ModelError(
        `${this.#id} is not (completely) in the cache ${this.#options.cacheDir}, and HF_HUB_OFFLINE is set. Download it once with the network on.`,
      )
    }
    const client: HubClient = {
      id: this.#id,
      endpoint: this.#options.endpoint.replace(/\/+$/, ''),
      token: this.#options.token,
    }
    const { sha, files } = await this.#list(client)
    const chosen = this.#contents.choose(this.#id, files, quant)
    const blobs: { file: string; blob: Blob }[] = []
    for (const file of chosen.files) blobs.push({ file, blob: await describeBlob(client, sha, file) })
    const totalBytes = blobs.reduce((sum, { blob }) => sum + blob.bytes, 0)
    let doneBytes = 0
    const snapshot = join(this.#folder, 'snapshots', sha)
    makeFolder(snapshot)
    makeFolder(join(this.#folder, 'blobs'))
    // Small files come first, so that an unknown architecture or a missing tokenizer can be seen early in the folder.
    for (const { file, blob } of blobs.sort((a, b) => a.blob.bytes - b.blob.bytes)) {
      const before = doneBytes
      await fetchBlob(client, blob, join(this.#folder, 'blobs'), (bytes) => {
        doneBytes = before + bytes
        this.#options.onProgress?.(doneBytes, totalBytes)
      })
      doneBytes = before + blob.bytes
      makeFolder(dirname(join(snapshot, file)))
      await linkBlob(join(this.#folder, 'blobs', blob.etag), join(snapshot, file))
    }
    makeFolder(join(this.#folder, 'refs'))
    await writeFile(join(this.#folder, 'refs', REVISION), sha)
    return chosen.gguf === null ? snapshot : join(snapshot, chosen.gguf)
  }

  async #list(client: HubClient): Promise<{ sha: string; files: string[] }> {
    const response = await requestHub(client, `${client.endpoint}/api/models/${client.id}/revision/${REVISION}`, {})
    let body: { sha?: unknown; siblings?: unknown } | null
    try {
      body = (await response.json()) as typeof body
    } catch (error) {
      throw new ModelError(
        `${client.endpoint} answered something other than JSON about ${client.id}. Is HF_ENDPOINT a hub?`,
        { cause: error },
      )
    }
    const sha = body?.sha
    const siblings = body?.siblings
    if (typeof sha !== 'string' || !/^[0-9a-f]{40}$/.test(sha) || !Array.isArray(siblings)) {
      throw new ModelError(
        `${client.endpoint} sent no listing of ${client.id} (expected sha and siblings). Is HF_ENDPOINT a hub?`,
      )
    }
    const files = siblings.flatMap((entry: unknown) => {
      const file = typeof entry === 'object' && entry !== null && 'rfilename' in entry ? entry.rfilename : null
      return typeof file === 'string' ? [file] : []
    })
    return { sha, files }
  }
}
