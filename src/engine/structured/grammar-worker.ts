/**
 * The grammar thread's entry: compiles grammars and follows sequences through them. The library is synchronous WebAssembly whose compiled
 * grammars cannot leave their instance, so matchers live where their grammar was compiled.
 */
import { readFileSync } from 'node:fs'
import Module, { createRequire } from 'node:module'
import { parentPort, workerData } from 'node:worker_threads'
import type * as XGrammar from '@mlc-ai/web-xgrammar'
import type { GrammarCall, GrammarRequest, GrammarResponse, GrammarVocabulary } from './grammar-protocol.ts'
import type { GrammarSource } from './grammar-source.ts'
import type { ToolCallGrammar } from '../tool-calls/tool-call-grammar.ts'

/** White space between two JSON elements: enough to indent, not enough to never finish. */
const MAX_WHITESPACE = 16

/** For an indentation. */
const ONE_LINE = -1

class GrammarWorker {
  readonly #vocabulary: GrammarVocabulary
  readonly #library: typeof XGrammar
  readonly #compiled = new Map<string, XGrammar.CompiledGrammar>()
  readonly #matchers = new Map<number, XGrammar.GrammarMatcher>()
  #compiler: XGrammar.GrammarCompiler | null = null

  constructor(vocabulary: GrammarVocabulary) {
    this.#vocabulary = vocabulary
    this.#library = loadLibrary()
  }

  async answer(call: GrammarCall): Promise<Uint32Array<ArrayBuffer> | null> {
    switch (call.kind) {
      case 'compile':
        this.#compiled.get(call.key)?.dispose()
        this.#compiled.set(call.key, await this.#compile(call.source))
        return null
      case 'drop':
        this.#compiled.get(call.key)?.dispose()
        this.#compiled.delete(call.key)
        return null
      case 'create': {
        const grammar = this.#compiled.get(call.key)
        if (grammar === undefined) throw new Error('the grammar is not compiled here')
        const { eosTokenIds } = this.#vocabulary
        const matcher = await this.#library.GrammarMatcher.createGrammarMatcher(grammar, [...eosTokenIds])
        this.#matchers.set(call.matcher, matcher)
        return null
      }
      case 'mask':
        return this.#mask(call.matcher, call.tokens)
      case 'close':
        this.#matchers.get(call.matcher)?.dispose()
        this.#matchers.delete(call.matcher)
        return null
    }
  }

  async #mask(id: number, tokens: readonly number[]): Promise<Uint32Array<ArrayBuffer>> {
    const matcher = this.#matchers.get(id)
    if (matcher === undefined) throw new Error(`matcher ${id} is not here`)
    for (const token of tokens)
      if (!matcher.acceptToken(token)) throw new Error(`token ${token} was drawn past the grammar's mask`)
    const mask = await matcher.getNextTokenBitmask()
    // The library's array lies in its memory.
    return Uint32Array.from({ length: Math.ceil(this.#vocabulary.tokens.length / 32) }, (_, word) => mask[word] ?? 0)
  }

  async #compile(source: GrammarSource): Promise<XGrammar.CompiledGrammar> {
    const compiler = (this.#compiler ??= await this.#createCompiler())
    switch (source.kind) {
      case 'schema':
        return compiler.compileJSONSchema(source.text, true, undefined, undefined, false, MAX_WHITESPACE)
      case 'ebnf':
        return compiler.compileGrammar(source.text)
      case 'regex': {
        const format = { type: 'regex', pattern: source.text } as const
        const grammar = await this.#library.Grammar.fromStructuralTag({ type: 'structural_tag', format })
        return compiler.compileGrammar(grammar)
      }
      case 'tool_calls':
        return compiler.compileGrammar(await this.#toolCalls(JSON.parse(source.text) as ToolCallGrammar))
    }
  }

  /** Arguments are spaced as templates write JSON: `{"a": 1, "b": [2, 3]}`. */
  async #toolCalls(calls: ToolCallGrammar): Promise<XGrammar.Grammar> {
    const { Grammar } = this.#library
    const tags: XGrammar.TagFormat[] = []
    for (const { begin, schema, end } of calls.functions) {
      const parameters = await Grammar.fromJSONSchema(JSON.stringify(schema), false, ONE_LINE, [', ', ': '], false)
      tags.push({ type: 'tag', begin, content: { type: 'grammar', grammar: parameters.toString() }, end })
      parameters.dispose()
    }
    const { before, after, separator, isRepeated } = calls
    const list = {
      type: 'tags_with_separator',
      tags,
      separator,
      at_least_one: true,
      stop_after_first: !isRepeated,
    } as const
    // The library lets a list stand before its closing bracket in a tag only.
    const format = before === '' ? list : ({ type: 'tag', begin: before, content: list, end: after } as const)
    return Grammar.fromStructuralTag({ type: 'structural_tag', format })
  }

  async #createCompiler(): Promise<XGrammar.GrammarCompiler> {
    const { TokenizerInfo, GrammarCompiler } = this.#library
    const { tokens, spelling, eosTokenIds } = this.#vocabulary
    const info = await TokenizerInfo.createTokenizerInfo([...tokens], spelling, false, tokens.length, [...eosTokenIds])
    return GrammarCompiler.createGrammarCompiler(info, false)
  }
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

function serve(port: NonNullable<typeof parentPort>, worker: GrammarWorker): void {
  const post = (response: GrammarResponse, transfer: ArrayBuffer[] = []): void => port.postMessage(response, transfer)
  const answer = async ({ id, call }: GrammarRequest): Promise<void> => {
    try {
      const mask = await worker.answer(call)
      post({ id, mask }, mask === null ? [] : [mask.buffer])
    } catch (error) {
      post({ id, error: error instanceof Error ? error.message : String(error) })
    }
  }
  // In order: a mask call must not overtake the one that creates its matcher.
  let last = Promise.resolve()
  port.on('message', (request: GrammarRequest) => {
    last = last.then(() => answer(request))
  })
}

if (parentPort !== null) serve(parentPort, new GrammarWorker(workerData as GrammarVocabulary))
