/**
 * Every setting, as one zod schema: its flag, its variable, its default and what it does. A field's metadata drives the flag parser,
 * `--help` and the table in docs/configuration.md; config.ts reads command line and environment by it.
 */
import { z } from 'zod'

/** How a field is set and described. `flag` is absent for settings that only the environment has. */
export interface FieldMeta {
  readonly flag?: string
  readonly env?: string
  readonly value?: string
  readonly help: string
  /** A variable that is set and blank is refused: what should have filled it is missing. */
  readonly isSecret?: true
  readonly group: 'server' | 'model' | 'engine' | 'retrieval' | 'observability' | 'other'
  /** What `--help` and the docs print as the default when it is not the plain value. */
  readonly defaultText?: string
}

const integer = (min: number, max: number) =>
  z
    .string()
    .regex(/^-?\d+$/, 'a whole number')
    .transform(Number)
    .pipe(z.number().min(min, `at least ${min}`).max(max, `at most ${max}`))

/** Seconds on the command line, milliseconds in the Config. */
const seconds = (max: number) =>
  z
    .string()
    .regex(/^\d+(\.\d+)?$/, 'a number of seconds')
    .transform(Number)
    .pipe(z.number().max(max, `at most ${max} seconds`))
    .transform((value) => value * 1000)

/** Bytes, with an optional unit. */
const size = z
  .string()
  .regex(/^\d+(\.\d+)?\s*(k|m|g|ki|mi|gi|kb|mb|gb|kib|mib|gib)?$/i, 'a size such as 512M or 2G')
  .transform(parseSize)

const share = z
  .string()
  .regex(/^(0(\.\d+)?|1(\.0+)?)$/, 'a share from 0 to 1')
  .transform(Number)

const kvCacheMemory = z.union(
  [share.transform((value) => ({ share: value })), size.transform((bytes) => ({ bytes }))],
  { error: 'a size such as 4G, or a share such as 0.8' },
)

/** `vector=1,text=0.5`: what each signal of retrieval counts. */
const fusionWeights = z
  .string()
  .regex(
    /^(vector|text|rerank|document)=\d+(\.\d+)?(,(vector|text|rerank|document)=\d+(\.\d+)?)*$/,
    'NAME=NUMBER,… with the names vector, text, rerank and document',
  )
  .transform((value) => {
    const weights: { vector?: number; text?: number; rerank?: number; document?: number } = {}
    for (const pair of value.split(',')) {
      const [name, number] = pair.split('=')
      if (name === 'vector' || name === 'text' || name === 'rerank' || name === 'document') {
        weights[name] = Number(number)
      }
    }
    return weights
  })

const truthy = z
  .string()
  .regex(/^(1|0|true|false|yes|no|on|off)$/i, 'true or false')
  .transform((value) => /^(1|true|yes|on)$/i.test(value))

/** One of these words, in any case: LOG_LEVEL=INFO is a habit of other programs. */
const oneOf = <const T extends readonly [string, ...string[]]>(values: T) =>
  z
    .string()
    .transform((value) => values.find((known) => known.toLowerCase() === value.toLowerCase()) ?? value)
    .pipe(z.enum(values, { error: `one of ${values.join(', ')}` }))

const text = z.string().min(1, 'a value')
const secret = z.string().trim().min(1, 'a key that is not blank')
const url = z.string().regex(/^https?:\/\/\S+$/, 'a URL that begins with http:// or https://')

/** As OpenTelemetry's variables have it: with a scheme, or host and port alone. */
const endpoint = z
  .string()
  .regex(
    /^(?:https?:\/\/\S+|[\w.-]+:\d+|\[[0-9a-f:]+\]:\d+)$/i,
    'a URL that begins with http:// or https://, or host:port',
  )

/** An origin as browsers send it, or all of them. A slash behind it is a habit; anything else there would never match. */
const origin = z.string().transform((value, ctx) => {
  if (value === '*') return value
  const parsed = URL.canParse(value) ? new URL(value) : null
  const isOrigin = parsed !== null && /^https?:$/.test(parsed.protocol) && `${parsed.origin}/` === parsed.href
  if (isOrigin) return parsed.origin
  ctx.addIssue({ code: 'custom', message: 'an origin such as http://localhost:3000, without a path, or *' })
  return z.NEVER
})

const fieldRegistry = z.registry<FieldMeta>()

const field = <T extends z.ZodType>(type: T, meta: FieldMeta): T => {
  fieldRegistry.add(type, meta)
  return type
}

export const schema = z.object({
  host: field(text.default('127.0.0.1'), {
    flag: 'host',
    env: 'HOST',
    value: 'ADDRESS',
    help: 'address to listen on',
    group: 'server',
  }),
  port: field(integer(0, 65535).default(8000), {
    flag: 'port',
    env: 'PORT',
    value: 'N',
    help: 'port to listen on; 0 takes any free one',
    group: 'server',
  }),
  apiKeys: field(z.array(secret).default([]), {
    isSecret: true,
    flag: 'api-key',
    env: 'MINISERVE_API_KEY',
    value: 'KEY',
    help: 'required of every request but /health and /ready; repeat the flag (or separate by commas in the environment) for several',
    group: 'server',
    defaultText: 'none: open',
  }),
  adminKey: field(secret.nullable().default(null), {
    isSecret: true,
    flag: 'admin-key',
    env: 'MINISERVE_ADMIN_KEY',
    value: 'KEY',
    help: 'a key that also sees the traces of the other keys, and what each used on /metrics',
    group: 'server',
  }),
  keyFile: field(text.nullable().default(null), {
    flag: 'key-file',
    env: 'MINISERVE_KEY_FILE',
    value: 'FILE',
    help: 'keys with names, roles and limits; read again when it changes (docs/security.md)',
    group: 'server',
  }),
  insecure: field(z.boolean().default(false), {
    flag: 'insecure',
    help: 'serve without keys on an address that others can reach',
    group: 'server',
  }),
  corsOrigins: field(z.array(origin).default([]), {
    flag: 'cors-origin',
    value: 'ORIGIN',
    help: 'origin allowed to call from a browser, or *; repeatable',
    group: 'server',
    defaultText: 'none',
  }),
  maxQueuedRequests: field(integer(1, 1_000_000).default(256), {
    flag: 'max-queued-requests',
    value: 'N',
    help: 'sequences waiting for their first step; more are refused with 429',
    group: 'server',
  }),
  maxQueuedTokens: field(integer(1, 1_000_000_000).default(65_536), {
    flag: 'max-queued-tokens',
    value: 'N',
    help: 'prompt tokens of the waiting sequences together; more are refused with 429',
    group: 'server',
  }),
  maxRequestBytes: field(integer(1024, 1 << 30).default(16 * 1024 * 1024), {
    flag: 'max-request-bytes',
    value: 'BYTES',
    help: 'largest request body; more is refused with 413',
    group: 'server',
  }),
  requestTimeoutMs: field(seconds(86_400).default(600_000), {
    flag: 'request-timeout',
    value: 'SECONDS',
    help: 'a generation that takes longer ends with 504; 0 is no limit',
    group: 'server',
    defaultText: '600',
  }),
  shutdownTimeoutMs: field(seconds(3600).default(25_000), {
    flag: 'shutdown-timeout',
    value: 'SECONDS',
    help: 'how long running requests may take to finish after SIGTERM',
    group: 'server',
    defaultText: '25',
  }),

  model: field(text.nullable().default(null), {
    flag: 'model',
    env: 'MODEL',
    value: 'PATH|ID',
    help: 'a folder in Hugging Face layout, a .gguf file, or a hub id ORG/NAME',
    group: 'model',
    defaultText: 'the bundled model',
  }),
  servedModelName: field(text.nullable().default(null), {
    flag: 'served-model-name',
    value: 'NAME',
    help: 'name in requests and responses',
    group: 'model',
    defaultText: "the folder's, file's or id's",
  }),
  device: field(oneOf(['auto', 'webgpu', 'cpu', 'reference']).default('auto'), {
    flag: 'device',
    value: 'auto|webgpu|cpu|reference',
    help: 'auto takes a real GPU, else cpu, else reference; webgpu takes any adapter, software ones included',
    group: 'model',
  }),
  chatTemplate: field(text.nullable().default(null), {
    flag: 'chat-template',
    env: 'CHAT_TEMPLATE',
    value: 'FILE',
    help: "a Jinja template to use instead of the model's own",
    group: 'model',
    defaultText: "the model's own, else ChatML",
  }),
  toolCallParser: field(oneOf(['auto', 'hermes', 'llama3_json', 'mistral', 'none']).default('auto'), {
    flag: 'tool-call-parser',
    value: 'auto|hermes|llama3_json|mistral|none',
    help: 'how the model writes function calls: auto asks its chat template, none leaves them in the text',
    group: 'model',
  }),
  reasoningParser: field(
    oneOf(['auto', 'qwen3', 'mistral', 'seed_oss', 'command_a', 'kimi_vl', 'none']).default('auto'),
    {
      flag: 'reasoning-parser',
      value: 'auto|qwen3|mistral|seed_oss|command_a|kimi_vl|none',
      help: 'how the model marks what it thinks before it answers: auto asks its chat template, none leaves it in the text',
      group: 'model',
    },
  ),
  quantization: field(oneOf(['none', 'q8', 'q4']).default('none'), {
    flag: 'quantization',
    value: 'none|q8|q4',
    help: 'quantise a float checkpoint on load, in groups of 32',
    group: 'model',
  }),
  threads: field(integer(1, 64).nullable().default(null), {
    flag: 'threads',
    value: 'N',
    help: 'threads of the cpu backend',
    group: 'model',
    defaultText: 'physical cores, at most 8',
  }),

  maxModelLen: field(integer(16, 10_000_000).nullable().default(null), {
    flag: 'max-model-len',
    value: 'N',
    help: 'tokens of prompt and output together',
    group: 'engine',
    defaultText: "the model's",
  }),
  maxNumSeqs: field(integer(1, 1024).default(64), {
    flag: 'max-num-seqs',
    value: 'N',
    help: 'sequences that run at the same time',
    group: 'engine',
  }),
  maxNumBatchedTokens: field(integer(16, 65_536).nullable().default(null), {
    flag: 'max-num-batched-tokens',
    value: 'N',
    help: 'token budget of a step, prefill chunks and decode together',
    group: 'engine',
    defaultText: '512 on cpu, 2048 on webgpu',
  }),
  blockSize: field(integer(1, 256).default(16), {
    flag: 'block-size',
    value: 'N',
    help: 'tokens a KV block',
    group: 'engine',
  }),
  maxPrefillMs: field(integer(1, 3_600_000).default(100), {
    flag: 'max-prefill-ms',
    value: 'MS',
    help: 'longest piece of a prompt, in milliseconds as measured, that is computed in a step while others decode',
    group: 'engine',
  }),
  onFatal: field(oneOf(['restart', 'exit']).default('restart'), {
    flag: 'on-fatal',
    value: 'restart|exit',
    help: 'what follows when the device or its thread cannot go on: restart (with growing pauses; /ready is 503 meanwhile) or exit with code 1',
    group: 'engine',
  }),
  numKvBlocks: field(integer(2, 10_000_000).nullable().default(null), {
    flag: 'num-kv-blocks',
    value: 'N',
    help: 'blocks of the KV pool',
    group: 'engine',
    defaultText: 'from memory',
  }),
  kvCacheMemory: field(kvCacheMemory.nullable().default(null), {
    flag: 'kv-cache-memory',
    value: 'SIZE|SHARE',
    help: 'memory for the KV cache: bytes (4G), or a share of what the device offers (0.8)',
    group: 'engine',
    defaultText: 'what the sequences need, as far as the device has it',
  }),
  prefixCaching: field(z.boolean().default(true), {
    flag: 'no-prefix-caching',
    help: 'compute every prompt from its first token',
    group: 'engine',
  }),
  kvHostMemoryBytes: field(size.default(0), {
    flag: 'kv-host-memory',
    value: 'SIZE',
    help: 'host memory for evicted KV blocks, such as 512M',
    group: 'engine',
    defaultText: '0',
  }),
  kvCacheDir: field(text.nullable().default(null), {
    flag: 'kv-cache-dir',
    value: 'FOLDER',
    help: 'folder where evicted KV blocks outlive the process',
    group: 'engine',
    defaultText: 'none',
  }),
  kvCacheMaxBytes: field(size.default(8 * 1024 ** 3), {
    flag: 'kv-cache-max-size',
    value: 'SIZE',
    help: 'bound of --kv-cache-dir; the least recently used blocks go first',
    group: 'engine',
    defaultText: '8G',
  }),
  speculation: field(z.boolean().default(true), {
    flag: 'no-speculation',
    help: 'no drafts by prompt lookup',
    group: 'engine',
  }),
  runAhead: field(integer(0, 1).default(1), {
    flag: 'run-ahead',
    value: '0|1',
    help: 'plan a step before the tokens of the last one are known, where a sequence allows it',
    group: 'engine',
  }),
  engineUrls: field(z.array(url).default([]), {
    flag: 'engine-url',
    env: 'MINISERVE_ENGINE_URL',
    value: 'URL',
    help: 'serve through an OpenAI-compatible engine elsewhere instead of the local one; repeat it for several of the same model',
    group: 'engine',
    defaultText: 'none: the local engine',
  }),
  engineApiKey: field(text.nullable().default(null), {
    env: 'MINISERVE_ENGINE_API_KEY',
    help: 'key for --engine-url',
    group: 'engine',
  }),
  seed: field(integer(0, 4_294_967_295).nullable().default(null), {
    flag: 'seed',
    value: 'N',
    help: 'seed of requests that bring none',
    group: 'engine',
    defaultText: 'random a request',
  }),

  ragIndex: field(text.default('docs'), {
    flag: 'rag-index',
    value: 'NAME',
    help: 'the index of "rag": true',
    group: 'retrieval',
  }),
  ragStore: field(oneOf(['memory', 'pgvector']).default('memory'), {
    flag: 'rag-store',
    value: 'memory|pgvector',
    help: 'where indexes live',
    group: 'retrieval',
  }),
  ragStoreUrl: field(text.nullable().default(null), {
    flag: 'rag-store-url',
    env: 'MINISERVE_RAG_STORE_URL',
    value: 'URL',
    help: 'postgres://… for --rag-store pgvector',
    group: 'retrieval',
  }),
  embeddingModel: field(text.nullable().default(null), {
    flag: 'embedding-model',
    value: 'PATH|ID',
    help: 'a sentence-embedding model in ONNX (folder or hub id), or a folder of static embeddings (model2vec)',
    group: 'retrieval',
    defaultText: 'the bundled model',
  }),
  rerankerModel: field(text.nullable().default(null), {
    flag: 'reranker-model',
    value: 'PATH|ID',
    help: 'a cross-encoder in ONNX (folder or hub id)',
    group: 'retrieval',
    defaultText: 'none: passages keep the order of the search',
  }),
  ragWeights: field(fusionWeights.default({}), {
    flag: 'rag-weights',
    value: 'NAME=NUMBER,…',
    help: 'what vector, text, rerank and document count in the order of found passages, such as vector=1,text=0.5',
    group: 'retrieval',
    defaultText: 'those of the models',
  }),

  otlpTracesEndpoint: field(endpoint.nullable().default(null), {
    flag: 'otlp-traces-endpoint',
    env: 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT',
    value: 'URL',
    help: 'OTLP endpoint for spans, over OTEL_EXPORTER_OTLP_PROTOCOL (grpc, http/protobuf, http/json); OTEL_EXPORTER_OTLP_ENDPOINT is used when this is not set',
    group: 'observability',
    defaultText: 'none: nothing is dialled',
  }),
  traceDetail: field(oneOf(['off', 'contract', 'steps', 'kernels']).default('contract'), {
    flag: 'trace-detail',
    value: 'off|contract|steps|kernels',
    help: 'off also by MINISERVE_TRACES_ENABLED=false or OTEL_SDK_DISABLED=true; kernels is slower',
    group: 'observability',
  }),
  traceBaseline: field(share.default(1), {
    flag: 'trace-baseline',
    value: 'SHARE',
    help: 'below 1: export this share of the traces, and besides them every error, abort, empty output and slow one',
    group: 'observability',
    defaultText: '1: all',
  }),
  traceKeepTtftMs: field(seconds(3600).nullable().default(null), {
    flag: 'trace-keep-ttft',
    value: 'SECONDS',
    help: 'with --trace-baseline: a first token later than this is slow',
    group: 'observability',
    defaultText: 'none',
  }),
  traceLeakMs: field(seconds(86_400).default(900_000), {
    flag: 'trace-leak-timeout',
    value: 'SECONDS',
    help: 'a request without a sign of life for this long has its trace closed as a leak, and counted; 0: never',
    group: 'observability',
    defaultText: '900',
  }),
  traceStoreSize: field(integer(0, 1_000_000).default(1000), {
    flag: 'trace-store-size',
    value: 'N',
    help: 'complete traces kept in memory for /traces',
    group: 'observability',
  }),
  trustRemoteTraces: field(truthy.default(true), {
    env: 'MINISERVE_TRACES_TRUST_REMOTE',
    help: "false: start a trace of our own, linked to the caller's span, instead of joining it",
    group: 'observability',
  }),
  captureContent: field(truthy.default(false), {
    env: 'MINISERVE_CAPTURE_CONTENT',
    help: 'true: put prompts and completions on spans. Off by default for good reason',
    group: 'observability',
  }),
  plugins: field(z.array(text).default([]), {
    flag: 'plugin',
    value: 'FILE',
    help: 'a module whose default export is an engine subscriber; repeatable (docs/extending-traces.md)',
    group: 'observability',
    defaultText: 'none',
  }),
  logLevel: field(oneOf(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'), {
    flag: 'log-level',
    env: 'LOG_LEVEL',
    value: 'LEVEL',
    help: 'trace, debug, info, warn, error, fatal or silent',
    group: 'observability',
  }),
  logFile: field(z.string().default('logs/miniserve.log'), {
    flag: 'log-file',
    value: 'FILE',
    help: 'JSON lines also go here, rotated at 50 MB, 3 files; an empty value writes none',
    group: 'observability',
  }),

  cacheDir: field(text.nullable().default(null), {
    flag: 'cache-dir',
    env: 'MINISERVE_CACHE_DIR',
    value: 'FOLDER',
    help: 'packed weights, tuning results and the secret behind cache salts',
    group: 'other',
    defaultText: '~/.cache/miniserve',
  }),
  dataDir: field(text.nullable().default(null), {
    flag: 'data-dir',
    env: 'MINISERVE_DATA_DIR',
    value: 'FOLDER',
    help: 'document indexes of --rag-store memory',
    group: 'other',
    defaultText: '~/.local/share/miniserve',
  }),
  hfHome: field(text.nullable().default(null), {
    env: 'HF_HOME',
    help: 'cache of hub downloads',
    group: 'other',
    defaultText: '~/.cache/huggingface',
  }),
  hfHubCache: field(text.nullable().default(null), {
    env: 'HF_HUB_CACHE',
    help: 'its hub folder, when not inside HF_HOME',
    group: 'other',
    defaultText: '$HF_HOME/hub',
  }),
  hfToken: field(text.nullable().default(null), { env: 'HF_TOKEN', help: 'token for gated models', group: 'other' }),
  hfEndpoint: field(url.default('https://huggingface.co'), { env: 'HF_ENDPOINT', help: 'the hub', group: 'other' }),
  hfOffline: field(truthy.default(false), { env: 'HF_HUB_OFFLINE', help: 'never call the hub', group: 'other' }),
})

function parseSize(value: string): number {
  const [, amount = '0', unit = ''] = /^([\d.]+)\s*([a-z]*)$/i.exec(value.trim()) ?? []
  const factor = { '': 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3 }[unit.toLowerCase().charAt(0)] ?? 1
  return Math.floor(Number(amount) * factor)
}

/** A setting with its metadata, for the parser, `--help` and the docs. */
export interface Setting extends FieldMeta {
  readonly key: string
  readonly type: z.ZodType
  readonly isBoolean: boolean
  readonly isList: boolean
  readonly printedDefault: string
}

/** Every setting in the order of the schema. */
export const SETTINGS: readonly Setting[] = Object.entries(schema.shape).map(([key, type]) => {
  const meta = fieldRegistry.get(type)
  if (!meta) throw new Error(`config field ${key} has no metadata`)
  const fallback: unknown = type.def.defaultValue
  return {
    ...meta,
    key,
    type,
    isBoolean: meta.flag !== undefined && meta.value === undefined,
    isList: Array.isArray(fallback),
    printedDefault: meta.defaultText ?? (fallback === null || fallback === undefined ? 'none' : String(fallback)),
  }
})
