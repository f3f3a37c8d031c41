/** Converts a GGUF file's tokenizer metadata to tokenizer.json and tokenizer_config.json. */
import { openFile } from '../../regular-file.ts'
import type { BpeVocabulary } from '../tokenizer/byte-pair-encoder.ts'
import { ModelError } from '../runner/runner.ts'
import { type GgufValues, readGgufHeader } from './gguf-header.ts'
import { textPlace, tokenPlace, tokenTemplate, unigramStages, wordPieceStages } from './gguf-text-tokenizer.ts'

interface GgufTokenizer {
  /** The content of tokenizer.json. */
  readonly tokenizer: Record<string, unknown>
  /** The content of tokenizer_config.json, with `chat_template` where the file has one. */
  readonly config: Record<string, unknown>
  /** Vocabulary and merges, where `tokenizer.model` leaves them out. */
  readonly vocabulary?: BpeVocabulary
}

// Token types of GGUF.
const CONTROL = 3
const USER_DEFINED = 4

const GPT2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
/** The GPT-4 style pattern. `digits` is the repetition of \p{N} in a piece, such as {1,3}. */
const modern = (digits: string): string =>
  String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}${digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
const LINES = String.raw`[^\n]+|[\n]+`
const TEKKEN = String.raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`

interface Splitter {
  readonly pattern: string
  /** Digits are split one by one before the pattern applies. */
  readonly splitsDigits?: boolean
  /** A piece that is a token as a whole is taken without merging. */
  readonly ignoresMerges?: boolean
}

/** By tokenizer.ggml.pre, the converter's name for the way in which the model splits text before merging. */
const SPLITTERS: ReadonlyMap<string, Splitter> = new Map([
  ['gpt-2', { pattern: GPT2 }],
  ['default', { pattern: GPT2 }],
  ['phi-2', { pattern: GPT2 }],
  ['olmo', { pattern: GPT2 }],
  ['smollm', { pattern: GPT2, splitsDigits: true }],
  ['starcoder', { pattern: GPT2, splitsDigits: true }],
  ['refact', { pattern: GPT2, splitsDigits: true }],
  ['command-r', { pattern: GPT2, splitsDigits: true }],
  ['llama-bpe', { pattern: modern('{1,3}'), ignoresMerges: true }],
  ['llama3', { pattern: modern('{1,3}'), ignoresMerges: true }],
  ['smaug-bpe', { pattern: modern('{1,3}') }],
  ['dbrx', { pattern: modern('{1,3}') }],
  ['qwen2', { pattern: modern('') }],
  ['deepseek-r1-qwen', { pattern: modern('') }],
  ['stablelm2', { pattern: modern('') }],
  ['tekken', { pattern: TEKKEN, ignoresMerges: true }],
])

/** Values of tokenizer.ggml.pre that add BOS before a text unless the file says otherwise. */
const ADDS_BOS: ReadonlySet<string> = new Set(['llama-bpe', 'llama3', 'tekken'])

/** The bundled model's pattern. */
const BUNDLED = String.raw`'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

/** The patterns of known models. None backtracks beyond the current piece, so that their time is linear in the text. */
export const LINEAR_PATTERNS: ReadonlySet<string> = new Set([
  LINES,
  BUNDLED,
  ...[...SPLITTERS.values()].map(({ pattern }) => pattern),
])

interface Metadata {
  readonly path: string
  readonly values: Pick<GgufValues, 'get' | 'has'>
}

function listOf<T extends 'string' | 'number'>(
  { path, values }: Metadata,
  key: string,
  type: T,
): readonly (T extends 'string' ? string : number)[] {
  const value: unknown = values.get(`tokenizer.ggml.${key}`)
  if (!Array.isArray(value) || !value.every((item) => typeof item === type)) {
    throw new ModelError(
      `${path}: tokenizer.ggml.${key} should be a list of ${type}s; this file has no usable tokenizer. Use another conversion of the model.`,
    )
  }
  return value as (T extends 'string' ? string : number)[]
}

function refuse(path: string, key: string, expected: string, found: unknown): never {
  const value = JSON.stringify(found).slice(0, 40)
  throw new ModelError(`${path}: ${key} should be ${expected}, found ${value}. Use another conversion of the model.`)
}

function numberOf({ path, values }: Metadata, key: string): number | null {
  const value = values.get(`tokenizer.ggml.${key}`)
  if (value === undefined || typeof value === 'number') return value ?? null
  return refuse(path, `tokenizer.ggml.${key}`, 'a number', value)
}

function flagOf({ path, values }: Metadata, key: string, fallback: boolean): boolean {
  const value = values.get(`tokenizer.ggml.${key}`)
  if (value === undefined || typeof value === 'boolean') return value ?? fallback
  return refuse(path, `tokenizer.ggml.${key}`, 'true or false', value)
}

function templateOf({ path, values }: Metadata): string | null {
  const key = 'tokenizer.chat_template'
  const value = values.get(key)
  if (value === undefined || typeof value === 'string') return value ?? null
  return refuse(path, key, 'a template', value)
}

/** The parts of tokenizer.json that depend on the kind of vocabulary, and its merges; null: the stages contain the vocabulary. */
interface Kind {
  readonly stages: Record<string, unknown>
  readonly merges: BpeVocabulary['merges'] | null
}

/** Byte-level BPE. */
function byteLevel(metadata: Metadata): Kind {
  const name = metadata.values.get('tokenizer.ggml.pre') ?? 'default'
  const splitter = typeof name === 'string' ? SPLITTERS.get(name) : undefined
  if (splitter === undefined) {
    throw new ModelError(
      `${metadata.path}: unknown pre-tokenizer ${JSON.stringify(name)}; known: ${[...SPLITTERS.keys()].join(', ')}. ` +
        "Serve the model's original folder instead: its tokenizer.json says how text is split.",
    )
  }
  const split = { type: 'Split', pattern: { Regex: splitter.pattern }, behavior: 'Isolated', invert: false }
  const digits = { type: 'Digits', individual_digits: true }
  const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }
  const stages = {
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: splitter.splitsDigits === true ? [digits, split, bytes] : [split, bytes],
    },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: splitter.ignoresMerges === true,
    },
  }
  return { stages, merges: listOf(metadata, 'merges', 'string') }
}

// Stages of vocabularies that spell a blank as ▁ and have a piece for each byte.
const SPACES = { type: 'Replace', pattern: { String: ' ' }, content: '▁' }
const SPACED_DECODERS = [
  { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
  { type: 'ByteFallback' },
  { type: 'Fuse' },
]

function spacedModel(metadata: Metadata, tokens: readonly string[], types: readonly number[]): Record<string, unknown> {
  const unknown = numberOf(metadata, 'unknown_token_id') ?? types.indexOf(2)
  return {
    type: 'BPE',
    dropout: null,
    unk_token: tokens[unknown] ?? null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: true,
    byte_fallback: true,
    ignore_merges: false,
  }
}

/** SentencePiece's BPE, which has scores instead of a list of merges. */
function sentencePiece(metadata: Metadata, tokens: readonly string[], types: readonly number[]): Kind {
  const scores = listOf(metadata, 'scores', 'number')
  if (scores.length !== tokens.length)
    throw new ModelError(`${metadata.path}: ${tokens.length} tokens but ${scores.length} scores in tokenizer.ggml.*`)
  const addsPrefix = flagOf(metadata, 'add_space_prefix', true)
  const strip = { type: 'Strip', content: ' ', start: 1, stop: 0 }
  const stages = {
    normalizer: addsPrefix ? { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }, SPACES] } : SPACES,
    pre_tokenizer: null,
    decoder: {
      type: 'Sequence',
      decoders: [...SPACED_DECODERS, ...(addsPrefix ? [strip] : [])],
    },
    model: spacedModel(metadata, tokens, types),
  }
  // Control, byte and unknown pieces are never merged.
  return { stages, merges: { scores, canMerge: (id) => types[id] === 1 || types[id] === USER_DEFINED } }
}

/** Gemma 4's BPE: pieces as SentencePiece spells them, a list of merges, and line breaks split from other text. */
function spacedBpe(metadata: Metadata, tokens: readonly string[], types: readonly number[]): Kind {
  const stages = {
    normalizer: SPACES,
    pre_tokenizer: { type: 'Split', pattern: { Regex: LINES }, behavior: 'Isolated', invert: false },
    decoder: { type: 'Sequence', decoders: SPACED_DECODERS },
    model: spacedModel(metadata, tokens, types),
  }
  return { stages, merges: listOf(metadata, 'merges', 'string') }
}

/** WordPiece, as in BERT. */
function wordPiece(metadata: Metadata, tokens: readonly string[], types: readonly number[]): Kind {
  const idOf = (keys: readonly string[], text: string): number =>
    keys.map((key) => numberOf(metadata, key)).find((id) => id !== null) ?? tokens.indexOf(text)
  const ids = {
    cls: idOf(['cls_token_id', 'bos_token_id'], '[CLS]'),
    // The format spells it this way.
    sep: idOf(['seperator_token_id', 'eos_token_id'], '[SEP]'),
    unknown: idOf(['unknown_token_id'], '[UNK]'),
  }
  return { stages: wordPieceStages(tokens, (id) => types[id] !== 1, ids), merges: null }
}

/** Unigram, as in XLM-RoBERTa. */
function unigram(metadata: Metadata, tokens: readonly string[]): Kind {
  const idOf = (key: string, text: string): number => numberOf(metadata, key) ?? tokens.indexOf(text)
  const ids = {
    bos: idOf('bos_token_id', '<s>'),
    eos: idOf('eos_token_id', '</s>'),
    unknown: idOf('unknown_token_id', '<unk>'),
  }
  const charsMap = metadata.values.get('tokenizer.ggml.precompiled_charsmap')
  const table = typeof charsMap === 'object' ? (charsMap as ArrayLike<number>) : null
  return { stages: unigramStages(tokens, listOf(metadata, 'scores', 'number'), ids, table), merges: null }
}

/** The post-processor that puts BOS and EOS around a text; null: neither is added. */
function postProcessor(
  metadata: Metadata,
  bos: string | null,
  eos: string | null,
  kind: unknown,
): Record<string, unknown> | null {
  // If the file does not say so, it depends on the kind of vocabulary, as in llama.cpp.
  const pre = metadata.values.get('tokenizer.ggml.pre')
  const usuallyAddsBos = kind === 'llama' || kind === 'gemma4' || (typeof pre === 'string' && ADDS_BOS.has(pre))
  const addsBos = flagOf(metadata, 'add_bos_token', usuallyAddsBos) && bos !== null
  const addsEos = flagOf(metadata, 'add_eos_token', false) && eos !== null
  if (!addsBos && !addsEos) return null
  const before = addsBos ? [tokenPlace(bos, 0)] : []
  const after = addsEos ? [tokenPlace(eos, 0)] : []
  const tokens = [
    [bos, numberOf(metadata, 'bos_token_id')],
    [eos, numberOf(metadata, 'eos_token_id')],
  ] as const
  return tokenTemplate(
    [...before, textPlace('A', 0), ...after],
    [...before, textPlace('A', 0), ...after, textPlace('B', 0), ...after],
    tokens.flatMap(([token, id]) => (token === null || id === null ? [] : [[token, id]])),
  )
}

/** Converts tokenizer metadata. @throws ModelError */
export function toTokenizerFiles(path: string, values: Metadata['values']): GgufTokenizer {
  const metadata = { path, values }
  const kind = values.get('tokenizer.ggml.model')
  const tokens = listOf(metadata, 'tokens', 'string')
  const types = values.has('tokenizer.ggml.token_type') ? listOf(metadata, 'token_type', 'number') : tokens.map(() => 1)
  if (types.length !== tokens.length)
    throw new ModelError(`${path}: ${tokens.length} tokens but ${types.length} token types in tokenizer.ggml.*`)
  const tokenOf = (key: string): string | null => tokens[numberOf(metadata, key) ?? -1] ?? null
  const bos = tokenOf('bos_token_id')
  const eos = tokenOf('eos_token_id')
  let parts: Kind
  if (kind === 'gpt2') parts = byteLevel(metadata)
  else if (kind === 'llama') parts = sentencePiece(metadata, tokens, types)
  else if (kind === 'gemma4') parts = spacedBpe(metadata, tokens, types)
  else if (kind === 'bert') parts = wordPiece(metadata, tokens, types)
  else if (kind === 't5') parts = unigram(metadata, tokens)
  else
    throw new ModelError(
      `${path}: unknown tokenizer.ggml.model ${JSON.stringify(kind) ?? '(none)'}; known: gpt2 (byte-level BPE), llama (SentencePiece), gemma4, bert (WordPiece), t5 (Unigram)`,
    )
  const added = tokens.flatMap((content, id) =>
    types[id] === CONTROL || types[id] === USER_DEFINED || types[id] === 2
      ? [
          {
            id,
            content,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: types[id] !== USER_DEFINED,
          },
        ]
      : [],
  )
  return {
    tokenizer: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: added,
      post_processor: postProcessor(metadata, bos, eos, kind),
      ...parts.stages,
    },
    ...(parts.merges === null ? {} : { vocabulary: { tokens, merges: parts.merges } }),
    config: configOf(metadata, tokens),
  }
}

/** The special tokens and the chat template, as tokenizer_config.json has them. */
function configOf(metadata: Metadata, tokens: readonly string[]): Record<string, unknown> {
  const tokenOf = (key: string): string | undefined => tokens[numberOf(metadata, key) ?? -1]
  const bos = tokenOf('bos_token_id')
  const eos = tokenOf('eos_token_id')
  const template = templateOf(metadata)
  return {
    ...(bos === undefined ? {} : { bos_token: bos }),
    ...(eos === undefined ? {} : { eos_token: eos }),
    ...(template === null ? {} : { chat_template: template }),
  }
}

/** Reads the tokenizer of a .gguf file. @throws ModelError */
export async function loadGgufTokenizer(path: string): Promise<GgufTokenizer> {
  return toTokenizerFiles(path, await readMetadata(path))
}

/** The chat template in a .gguf file; null: there is none. @throws ModelError */
export async function loadGgufChatTemplate(path: string): Promise<string | null> {
  return templateOf({ path, values: await readMetadata(path) })
}

async function readMetadata(path: string): Promise<GgufValues> {
  const file = await openFile(path)
  try {
    return (await readGgufHeader(file, path)).metadata
  } finally {
    await file.close()
  }
}
