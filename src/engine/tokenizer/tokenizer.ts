/** Text to token ids and back, for any tokenizer.json. */
import { join } from 'node:path'
import { Tokenizer as HfTokenizer } from '@huggingface/tokenizers'
import { type BpeVocabulary, BytePairEncoder } from './byte-pair-encoder.ts'
import { ModelError } from '../runner/runner.ts'
import { bytesOfToken, recordOf, type Spelling, spellingOf, type TokenizerUse } from './token-spelling.ts'
import { LINEAR_PATTERNS, loadGgufChatTemplate, loadGgufTokenizer } from '../weights/gguf-tokenizer.ts'
import { type Json, readJsonObject } from '../weights/json-file.ts'
import { checkTokenId, checkTokenizer } from './tokenizer-check.ts'
import { escapeRegExp, libraryStages } from './library-stages.ts'
import { isFolder } from '../weights/model-path.ts'

export interface Tokenizer {
  /** The folder or .gguf file of the tokenizer; null: it was created from contents. */
  readonly path: string | null
  /** The model class of tokenizer.json (BPE, Unigram, ...), for the span attribute tokenizer.name. */
  readonly name: string
  /** One more than the largest token id. */
  readonly vocabSize: number
  readonly bosToken: string | null
  readonly eosToken: string | null
  /** Tokens whose names say that they end a turn. Config files may name others. */
  readonly endOfTurnIds: readonly number[]
  /** Whether its patterns and replacements are known to take time proportional to the text. */
  readonly isLinear: boolean
  /** Recognises special tokens in the text. `addSpecialTokens` adds those that the post-processor puts around a text. */
  encode(text: string, options?: { readonly addSpecialTokens?: boolean }): number[]
  decode(ids: readonly number[], options?: { readonly skipSpecialTokens?: boolean }): string
  tokenId(token: string): number | null
  isSpecial(id: number): boolean
  /** Breaks each special token in a text with a space after its first character, so that encode() finds none. */
  escapeSpecialTokens(text: string): string
  /** Bytes of the longest token. A text of more than n times as many bytes has more than n tokens. */
  readonly maxTokenBytes: number
  /** The bytes of a token in running text; empty for ids outside the vocabulary. */
  tokenBytes(id: number): Uint8Array
  /** How the strings of the vocabulary spell bytes. */
  readonly spelling: Spelling['kind']
  /** A token as the vocabulary spells it; null for ids outside the vocabulary. */
  tokenText(id: number): string | null
}

/** A tokenizer that can also encode a pair of texts, for models that compare them. */
export interface PairTokenizer extends Tokenizer {
  /** Token ids with all special tokens, and the segment of each token. */
  encodePair(text: string, pair: string | null): { readonly ids: number[]; readonly segments: number[] }
}

/** A tokenizer's description, from its two files or from GGUF metadata. */
export interface TokenizerFiles {
  readonly tokenizer: Record<string, unknown>
  /** tokenizer_config.json; empty where there is none. */
  readonly config: Record<string, unknown>
  /** The folder or .gguf file with the description. */
  readonly path?: string
  /** The file with the description, for messages. */
  readonly file?: string
  /** Vocabulary and merges, if they are not in `tokenizer.model`. */
  readonly vocabulary?: BpeVocabulary
}

/** Loads the tokenizer of a folder in Hugging Face layout or of a .gguf file. @throws ModelError if it is missing, broken or unsupported */
export async function loadTokenizer(path: string): Promise<Tokenizer> {
  return createTokenizer({ ...(await readTokenizerFiles(path)), path })
}

/** tokenizer.json and tokenizer_config.json of a folder, or the equivalent metadata of a .gguf file. */
export async function readTokenizerFiles(path: string): Promise<TokenizerFiles> {
  if (!(await isFolder(path))) return { ...(await loadGgufTokenizer(path)), file: path }
  const file = join(path, 'tokenizer.json')
  const tokenizer = await readJsonObject(file)
  if (tokenizer === null) {
    throw new ModelError(
      `${file}: expected the model's tokenizer, found no file; download the model's tokenizer.json beside its weights`,
    )
  }
  return { tokenizer, config: await readTokenizerConfig(path), file }
}

/** tokenizer_config.json of a folder, or the chat template of a .gguf file; empty if there is none. */
export async function readTokenizerConfig(path: string): Promise<Json> {
  if (!(await isFolder(path))) {
    const template = await loadGgufChatTemplate(path)
    return template === null ? {} : { chat_template: template }
  }
  return (await readJsonObject(join(path, 'tokenizer_config.json'))) ?? {}
}

/** The library requires every stage to be present. */
const ABSENT_STAGES = { added_tokens: [], post_processor: null, decoder: null }

/** A tokenizer from its files' contents. @throws ModelError naming the file and, where one can be told, the field */
export function createTokenizer(files: TokenizerFiles, use: TokenizerUse = 'generate'): PairTokenizer {
  try {
    checkTokenizer(files.tokenizer, files.vocabulary === undefined)
    return libraryTokenizer(files, use)
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    const problem = error instanceof ModelError ? why : `tokenizer.json: cannot be used (${why.slice(0, 200)})`
    const { file = 'tokenizer.json' } = files
    throw new ModelError(
      problem.replace(/^tokenizer\.json(?=:)/, () => file),
      { cause: error },
    )
  }
}

function libraryTokenizer(files: TokenizerFiles, use: TokenizerUse): PairTokenizer {
  const config = {
    ...files.config,
    bos_token: specialText(files.config.bos_token) ?? undefined,
    eos_token: specialText(files.config.eos_token) ?? undefined,
  }
  const vocabulary = files.vocabulary ?? vocabularyOf(files.tokenizer)
  const stages = libraryStages(files.tokenizer)
  const definition = { ...ABSENT_STAGES, ...files.tokenizer, ...stages }
  if (vocabulary === null) return new VocabularyTokenizer(new HfTokenizer(definition, config), files, use)
  const model = recordOf(files.tokenizer.model)
  const emptyModel = { ...model, type: 'BPE', vocab: {}, merges: [] }
  const inner = new HfTokenizer({ ...definition, model: emptyModel }, config)
  const encoder = new BytePairEncoder(model, vocabulary)
  // The library adds these tokens to its own models too.
  for (const [id, { content }] of inner.get_added_tokens_decoder()) {
    encoder.ids.set(content, id)
    encoder.tokens[id] = content
  }
  Object.assign(inner, { model: asLibraryModel(encoder) })
  return new VocabularyTokenizer(inner, files, use)
}

/** A model as the library expects it: a function with the vocabulary as properties. */
function asLibraryModel(encoder: BytePairEncoder): unknown {
  return Object.assign((words: readonly string[]) => encoder.encode(words), {
    vocab: encoder.tokens,
    tokens_to_ids: encoder.ids,
    unk_token_id: encoder.unknownId,
  })
}

/** Vocabulary and merges of a BPE model in tokenizer.json; null for other models, and for BPE with affixes at word boundaries. */
function vocabularyOf(tokenizer: Record<string, unknown>): BpeVocabulary | null {
  const {
    type,
    vocab,
    merges,
    end_of_word_suffix: suffix,
    continuing_subword_suffix: inner,
  } = recordOf(tokenizer.model)
  const hasMarks = [suffix, inner].some((mark) => typeof mark === 'string' && mark !== '')
  const isBpe = (type === 'BPE' || type === undefined) && Array.isArray(merges)
  if (typeof vocab !== 'object' || vocab === null || Array.isArray(vocab)) return null
  const entries = vocab as Readonly<Record<string, unknown>>
  const tokens: string[] = []
  for (const token of Object.keys(entries)) tokens[checkTokenId(entries[token], 'model.vocab')] = token
  return isBpe && !hasMarks ? { tokens, merges: merges as readonly unknown[] } : null
}

/** Control tokens that end a turn, or a text, in the models that have them (llama.cpp's list of end-of-generation tokens). */
const END_OF_TURN: ReadonlySet<string> = new Set([
  '<|eot_id|>',
  '<|eom_id|>',
  '<|im_end|>',
  '<|end|>',
  '<|return|>',
  '<|call|>',
  '<end_of_turn>',
  '<turn|>',
  '<|endoftext|>',
  '<|end_of_text|>',
  '<|END_OF_TURN_TOKEN|>',
  '<end_of_utterance>',
  '<EOT>',
  '_<EOT>',
  '[EOT]',
  '[EOS]',
  '<｜end▁of▁sentence｜>',
])

function endOfTurnIds(eosToken: string | null, special: readonly number[], textOf: (id: number) => string): number[] {
  const texts = new Set(special.map(textOf))
  // In harmony, <|end|> ends a message and not the turn: <|return|> and <|call|> do.
  const isHarmony = texts.has('<|return|>') && texts.has('<|call|>')
  const isEnd = (text: string) => text === eosToken || (END_OF_TURN.has(text) && !(isHarmony && text === '<|end|>'))
  return special.filter((id) => isEnd(textOf(id)))
}

/** Limits on the number and the length of replacements in a tokenizer that counts as linear. */
const MAX_REPLACEMENTS = 8
const MAX_REPLACEMENT_CHARACTERS = 16

/** Whether every pattern is one of a known model, and replacements cannot multiply a text. */
function isLinear({ normalizer, pre_tokenizer: preTokenizer }: Record<string, unknown>): boolean {
  let numReplacements = 0
  const isKnown = (stage: unknown): boolean => {
    if (Array.isArray(stage)) return stage.every(isKnown)
    const { type, content, pattern, normalizers, pretokenizers } = recordOf(stage)
    if (type === 'Replace') numReplacements += 1
    if (typeof content === 'string' && content.length > MAX_REPLACEMENT_CHARACTERS) return false
    const { Regex: regex } = recordOf(pattern)
    if (regex !== undefined && !(typeof regex === 'string' && LINEAR_PATTERNS.has(regex))) return false
    return isKnown(normalizers ?? []) && isKnown(pretokenizers ?? [])
  }
  return isKnown([normalizer, preTokenizer]) && numReplacements <= MAX_REPLACEMENTS
}

class VocabularyTokenizer implements PairTokenizer {
  readonly path: string | null
  readonly name: string
  readonly vocabSize: number
  readonly bosToken: string | null
  readonly eosToken: string | null
  readonly endOfTurnIds: readonly number[]
  readonly isLinear: boolean
  readonly #inner: HfTokenizer
  readonly #spelling: Spelling
  readonly #tokens: (string | undefined)[]
  readonly #bytes: (Uint8Array | undefined)[] = []
  readonly #special = new Set<number>()
  /** Added tokens, which are spelled as plain text. */
  readonly #added = new Set<number>()
  /** Matches any special token, the longest first; null if there are none. */
  readonly #specialText: RegExp | null
  #maxTokenBytes = 0

  constructor(inner: HfTokenizer, files: TokenizerFiles, use: TokenizerUse) {
    this.#inner = inner
    this.path = files.path ?? null
    this.name = String(recordOf(files.tokenizer.model).type ?? 'BPE')
    this.bosToken = specialText(files.config.bos_token)
    this.eosToken = specialText(files.config.eos_token)
    this.#spelling = spellingOf(files.tokenizer, use)
    this.isLinear = isLinear(files.tokenizer)
    this.#tokens = [...(inner.model?.vocab ?? [])]
    for (const [id, token] of inner.get_added_tokens_decoder()) {
      this.#tokens[id] = token.content
      this.#added.add(id)
      if (token.special) this.#special.add(id)
    }
    this.vocabSize = this.#tokens.length
    this.endOfTurnIds = endOfTurnIds(this.eosToken, [...this.#special], (id) => this.#tokens[id] ?? '')
    const special = [...this.#special].map((id) => this.#tokens[id] ?? '').filter((token) => token !== '')
    const alternatives = special.toSorted((a, b) => b.length - a.length).map(escapeRegExp)
    this.#specialText = alternatives.length === 0 ? null : new RegExp(alternatives.join('|'), 'gu')
  }

  encode(text: string, options: { readonly addSpecialTokens?: boolean } = {}): number[] {
    return this.#inner.encode(text, { add_special_tokens: options.addSpecialTokens ?? true }).ids
  }

  encodePair(text: string, pair: string | null): { ids: number[]; segments: number[] } {
    const { ids, token_type_ids: segments } = this.#inner.encode(text, { text_pair: pair, return_token_type_ids: true })
    return { ids, segments: segments ?? ids.map(() => 0) }
  }

  decode(ids: readonly number[], options: { readonly skipSpecialTokens?: boolean } = {}): string {
    const kept = options.skipSpecialTokens === true ? ids.filter((id) => !this.#special.has(id)) : ids
    const text = Buffer.concat(kept.map((id) => this.tokenBytes(id))).toString('utf8')
    return this.#spelling.stripsFirstSpace && text.startsWith(' ') ? text.slice(1) : text
  }

  tokenId(token: string): number | null {
    return this.#inner.token_to_id(token) ?? null
  }

  isSpecial(id: number): boolean {
    return this.#special.has(id)
  }

  escapeSpecialTokens(text: string): string {
    const pattern = this.#specialText
    if (pattern === null) return text
    let escaped = text
    // Repeated, because the space may complete another special token. Each pass widens the gap, so this ends.
    for (let before = ''; before !== escaped;) {
      before = escaped
      escaped = escaped.replaceAll(pattern, (token) => {
        const [first = ''] = token
        // A token of one character cannot be broken.
        return first === token ? ' ' : `${first} ${token.slice(first.length)}`
      })
    }
    return escaped
  }

  get maxTokenBytes(): number {
    if (this.#maxTokenBytes === 0) {
      this.#maxTokenBytes = 1
      for (const [id, token = ''] of this.#tokens.entries()) {
        // No token has more bytes than its spelling, so few tokens have to be converted.
        if (Buffer.byteLength(token) > this.#maxTokenBytes)
          this.#maxTokenBytes = Math.max(this.#maxTokenBytes, this.tokenBytes(id).length)
      }
    }
    return this.#maxTokenBytes
  }

  get spelling(): Spelling['kind'] {
    return this.#spelling.kind
  }

  tokenText(id: number): string | null {
    return this.#tokens[id] ?? null
  }

  tokenBytes(id: number): Uint8Array {
    return (this.#bytes[id] ??= this.#spell(id))
  }

  #spell(id: number): Uint8Array {
    const token = this.#tokens[id]
    if (token === undefined) return new Uint8Array(0)
    return bytesOfToken(token, this.#added.has(id) ? 'plain' : this.#spelling.kind)
  }
}

/** A special token in a config file: its text, or an object with it. */
function specialText(value: unknown): string | null {
  if (typeof value === 'string') return value
  const { content } = recordOf(value)
  return typeof content === 'string' ? content : null
}
