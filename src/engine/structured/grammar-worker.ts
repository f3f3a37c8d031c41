/** The grammar threads' entry: one compiles grammars, another follows sequences through them. */
import { parentPort, workerData } from 'node:worker_threads'
import { ByteMatcher } from './byte-matcher.ts'
import type { MatchState } from './byte-matcher.ts'
import { constraintGrammar } from './constraint-grammar.ts'
import type { GrammarAnswer, GrammarCall, GrammarVocabulary } from './grammar-protocol.ts'
import { answerCalls } from '../threads/killable-thread.ts'
import { TokenTree } from './token-tree.ts'
import { Unenforceable } from './unenforceable.ts'

/** Where a sequence stands. */
interface Position {
  readonly grammar: ByteMatcher
  place: MatchState
}

class GrammarWorker {
  readonly #vocabulary: GrammarVocabulary | null
  readonly #grammars = new Map<string, ByteMatcher>()
  readonly #positions = new Map<number, Position>()
  #tree: TokenTree | null = null

  /** null: it compiles only. */
  constructor(vocabulary: GrammarVocabulary | null) {
    this.#vocabulary = vocabulary
  }

  answer(call: GrammarCall): GrammarAnswer {
    switch (call.kind) {
      case 'compile':
        return { compiled: constraintGrammar(call.source) }
      case 'load':
        this.#grammars.set(call.key, new ByteMatcher(call.network))
        return {}
      case 'drop':
        this.#grammars.delete(call.key)
        return {}
      case 'create': {
        const grammar = this.#grammars.get(call.key)?.forNextText()
        if (grammar === undefined) throw new Error('the grammar is not here')
        this.#grammars.set(call.key, grammar)
        this.#positions.set(call.matcher, { grammar, place: grammar.start() })
        return {}
      }
      case 'mask':
        return { mask: this.#mask(call.matcher, call.tokens) }
      case 'close':
        this.#positions.delete(call.matcher)
        return {}
    }
  }

  #mask(id: number, tokens: readonly number[]): Uint32Array<ArrayBuffer> {
    const position = this.#positions.get(id)
    if (position === undefined || this.#vocabulary === null) throw new Error(`matcher ${id} is not here`)
    const { bytes, offsets, vocabSize, eosTokenIds } = this.#vocabulary
    for (const token of tokens) {
      const [from, to] = [offsets[token] ?? 0, offsets[token + 1] ?? 0]
      let place: MatchState | null = from === to ? null : position.place
      for (let i = from; i < to && place !== null; i++) place = position.grammar.step(place, bytes[i] ?? 0)
      if (place === null) throw new Error(`token ${token} was drawn past the grammar's mask`)
      position.place = place
    }
    this.#tree ??= new TokenTree(this.#vocabulary)
    // A copy: it leaves this thread, and the mask is kept.
    return Uint32Array.from(position.grammar.mask(position.place, this.#tree, vocabSize, eosTokenIds))
  }
}

if (parentPort !== null) {
  const worker = new GrammarWorker(workerData as GrammarVocabulary | null)
  answerCalls(
    parentPort,
    (call: GrammarCall) => {
      const answer = worker.answer(call)
      return { answer, ...(answer.mask === undefined ? {} : { transfer: [answer.mask.buffer] }) }
    },
    (error) => (error instanceof Unenforceable ? error.message : undefined),
  )
}
