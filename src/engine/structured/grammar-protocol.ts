/** The matcher of a grammar, and the messages between grammar-thread.ts and grammar-worker.ts. */
import type { Network } from './byte-grammar.ts'
import type { GrammarSource } from './grammar-source.ts'
import type { TokenBytes } from './token-tree.ts'

/** Follows one sequence through its grammar. */
export interface GrammarMatcher {
  /** Takes the next token. A token that the mask did not allow makes the next mask() reject. */
  accept(token: number): void
  /** The tokens that may come next: bit t & 31 of word t >> 5 is set for token t. u32[ceil(vocab / 32)] */
  mask(): Promise<Uint32Array>
  /** Idempotent. */
  close(): void
}

/** The vocabulary of a thread that hosts matchers. */
export interface GrammarVocabulary extends TokenBytes {
  /** Width of the logits, which may exceed the number of tokens. */
  readonly vocabSize: number
  readonly eosTokenIds: readonly number[]
}

export type GrammarCall =
  | { readonly kind: 'compile'; readonly source: GrammarSource }
  | { readonly kind: 'load'; readonly key: string; readonly network: Network }
  /** Forgets a grammar; its matchers remain usable. */
  | { readonly kind: 'drop'; readonly key: string }
  | { readonly kind: 'create'; readonly key: string; readonly matcher: number }
  /** Accepts the tokens since the last mask and returns the next mask. */
  | { readonly kind: 'mask'; readonly matcher: number; readonly tokens: readonly number[] }
  | { readonly kind: 'close'; readonly matcher: number }

/** The result of a call: a compilation, a mask, or nothing. */
export interface GrammarAnswer {
  readonly mask?: Uint32Array<ArrayBuffer>
  readonly compiled?: { readonly network: Network; readonly warnings: readonly string[] }
}
