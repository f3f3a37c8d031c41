/** Structured output: a grammar compiled once a schema, a matcher a sequence, and the mask of the tokens that may come next. */
import { readFileSync } from 'node:fs'
import Module, { createRequire } from 'node:module'
import type * as XGrammar from '@mlc-ai/web-xgrammar'
import { prepareSchema } from './json-schema.ts'
import { EngineError } from './request.ts'
import type { StructuredOutput } from './request.ts'
import type { Tokenizer } from './tokenizer.ts'

/** Follows one sequence. */
export interface GrammarMatcher {
  /** Takes a token. False: the grammar does not allow it here, which a mask would have prevented. */
  accept(token: number): boolean
  /** Bit t of word t >> 5 set: token t may come next. u32[ceil(vocab / 32)] */
  mask(): Promise<Uint32Array>
  /** Idempotent. */
  close(): void
}

export interface GrammarCompiler {
  /** Throws EngineError invalid_request for what cannot be enforced or compiled. */
  createMatcher(structured: StructuredOutput): Promise<GrammarMatcher>
}

export interface GrammarOptions {
  readonly tokenizer: Tokenizer
  /** Rows of the logits: may be more than the tokenizer has. */
  readonly vocabSize: number
  readonly eosTokenIds: readonly number[]
  /** Compiled grammars kept. */
  readonly maxCached?: number
}

/** White space between two JSON elements: enough to indent, not enough to never finish. */
const MAX_WHITESPACE = 16
/** A schema or grammar beyond this is refused: compiling runs on the thread that serves. */
const MAX_SOURCE_CHARACTERS = 65_536

export function createGrammarCompiler(options: GrammarOptions): GrammarCompiler {
  return new CachingCompiler(options)
}

/** One instance of the library with the vocabulary loaded into it. */
interface Instance {
  readonly library: typeof XGrammar
  readonly compiler: XGrammar.GrammarCompiler
}

class CachingCompiler implements GrammarCompiler {
  readonly #options: GrammarOptions
  readonly #maxCached: number
  /** Least recently used first. */
  readonly #compiled = new Map<string, Promise<{ instance: Instance; grammar: XGrammar.CompiledGrammar }>>()
  #instance: Promise<Instance> | null = null

  constructor(options: GrammarOptions) {
    this.#options = options
    this.#maxCached = options.maxCached ?? 64
  }

  async createMatcher(structured: StructuredOutput): Promise<GrammarMatcher> {
    const { instance, grammar } = await this.#compile(structured)
    const { eosTokenIds, vocabSize } = this.#options
    const inner = await instance.library.GrammarMatcher.createGrammarMatcher(grammar, [...eosTokenIds])
    return new Matcher(inner, vocabSize)
  }

  #compile(structured: StructuredOutput): Promise<{ instance: Instance; grammar: XGrammar.CompiledGrammar }> {
    const source = sourceOf(structured)
    const key = `${structured.kind} ${source}`
    const known = this.#compiled.get(key)
    this.#compiled.delete(key)
    const compiled = known ?? this.#compileNew(structured, source)
    this.#compiled.set(key, compiled)
    // Refusals stay cached as well: the next instance would have to be thrown away like the last.
    const [oldest] = this.#compiled.keys()
    if (this.#compiled.size > this.#maxCached && oldest !== undefined) this.#compiled.delete(oldest)
    return compiled
  }

  async #compileNew(
    structured: StructuredOutput,
    source: string,
  ): Promise<{ instance: Instance; grammar: XGrammar.CompiledGrammar }> {
    const instance = await (this.#instance ??= this.#load())
    try {
      return { instance, grammar: await compile(instance, structured, source) }
    } catch (cause) {
      // The library aborts on what it cannot parse, which leaves the instance in an unknown state: matchers in it live on, new ones get another.
      this.#instance = null
      const param = paramOf(structured)
      throw new EngineError(
        'invalid_request',
        `${param}: the ${structured.kind} cannot be compiled into a grammar`,
        param,
        { cause },
      )
    }
  }

  async #load(): Promise<Instance> {
    const { tokenizer, vocabSize, eosTokenIds } = this.#options
    const library = loadLibrary()
    // Special tokens carry no text, and some bytes occur in no text: as empty strings they are never allowed but where the grammar may end.
    const isText = (id: number) => !tokenizer.isSpecial(id) && !tokenizer.tokenBytes(id).some(isNeverUtf8)
    const vocabulary = Array.from({ length: vocabSize }, (_, id) => (isText(id) ? (tokenizer.tokenText(id) ?? '') : ''))
    const kinds = { byte_level: 'byte_level', sentencepiece: 'byte_fallback', plain: 'raw' } as const
    const info = await library.TokenizerInfo.createTokenizerInfo(
      vocabulary,
      kinds[tokenizer.spelling],
      false,
      vocabSize,
      [...eosTokenIds],
    )
    return { library, compiler: await library.GrammarCompiler.createGrammarCompiler(info, false) }
  }
}

class Matcher implements GrammarMatcher {
  readonly #inner: XGrammar.GrammarMatcher
  readonly #numWords: number
  #numReaders = 0
  #isClosed = false
  #isDisposed = false

  constructor(inner: XGrammar.GrammarMatcher, vocabSize: number) {
    this.#inner = inner
    this.#numWords = Math.ceil(vocabSize / 32)
  }

  accept(token: number): boolean {
    return this.#inner.acceptToken(token)
  }

  async mask(): Promise<Uint32Array> {
    this.#numReaders++
    try {
      const mask = await this.#inner.getNextTokenBitmask()
      return Uint32Array.from({ length: this.#numWords }, (_, word) => mask[word] ?? 0)
    } finally {
      this.#numReaders--
      this.#dispose()
    }
  }

  close(): void {
    this.#isClosed = true
    this.#dispose()
  }

  /** Not under a mask that is being computed. */
  #dispose(): void {
    if (!this.#isClosed || this.#isDisposed || this.#numReaders > 0) return
    this.#isDisposed = true
    this.#inner.dispose()
  }
}

function compile(
  { library, compiler }: Instance,
  structured: StructuredOutput,
  source: string,
): Promise<XGrammar.CompiledGrammar> {
  switch (structured.kind) {
    case 'json_object':
    case 'json_schema':
      return compiler.compileJSONSchema(source, true, undefined, undefined, false, MAX_WHITESPACE)
    case 'regex':
      return library.Grammar.fromStructuralTag({
        type: 'structural_tag',
        format: { type: 'regex', pattern: source },
      }).then((grammar) => compiler.compileGrammar(grammar))
    case 'choice':
    case 'grammar':
      return compiler.compileGrammar(source)
  }
}

/** What the library compiles: a JSON Schema, a pattern or EBNF. */
function sourceOf(structured: StructuredOutput): string {
  const source = rawSource(structured)
  if (source.length <= MAX_SOURCE_CHARACTERS) return source
  const param = paramOf(structured)
  throw new EngineError(
    'invalid_request',
    `${param}: expected at most ${MAX_SOURCE_CHARACTERS} characters, found ${source.length}`,
    param,
  )
}

function rawSource(structured: StructuredOutput): string {
  switch (structured.kind) {
    case 'json_object':
      return JSON.stringify({ type: 'object' })
    case 'json_schema':
      return JSON.stringify(prepareSchema(structured.schema))
    case 'regex':
      return structured.pattern
    case 'choice':
      return `root ::= ${structured.choices.map(ebnfLiteral).join(' | ')}`
    case 'grammar':
      return structured.ebnf
  }
}

function paramOf(structured: StructuredOutput): string {
  return structured.kind === 'json_object' || structured.kind === 'json_schema'
    ? 'response_format'
    : 'structured_outputs'
}

/** C0, C1 and F5 to FF begin no character of Unicode and continue none. */
function isNeverUtf8(byte: number): boolean {
  return byte === 0xc0 || byte === 0xc1 || byte >= 0xf5
}

function ebnfLiteral(text: string): string {
  const escaped = Array.from(text, (character) => {
    const code = character.codePointAt(0) ?? 0
    if (character === '"' || character === '\\') return `\\${character}`
    return code < 0x20 || code === 0x7f ? `\\x${code.toString(16).padStart(2, '0')}` : character
  })
  return `"${escaped.join('')}"`
}

/**
 * A fresh instance of the library. Its package says ES module but its file is CommonJS, which Node refuses to load by name: it is compiled here
 * under a name that says what it is. It writes what it dislikes to the console, quoting it: stdout is the log's, and content stays out of both.
 */
function loadLibrary(): typeof XGrammar {
  const path = createRequire(import.meta.url).resolve('@mlc-ai/web-xgrammar')
  const module = new Module(path)
  const compileModule: unknown = Reflect.get(module, '_compile')
  if (typeof compileModule !== 'function') throw new Error('this version of Node cannot load CommonJS from source')
  const quiet = 'const console = { log() {}, info() {}, warn() {}, error() {} };'
  compileModule.call(module, quiet + readFileSync(path, 'utf8'), path.replace(/\.js$/, '.cjs'))
  const library: typeof XGrammar = module.exports
  return library
}
