/** What crosses between grammar-thread.ts and grammar-worker.ts. */
import type { Network } from './byte-grammar.ts'
import type { GrammarSource } from './grammar-source.ts'
import type { TokenBytes } from './token-tree.ts'

/** What a thread that hosts matchers knows of the vocabulary. */
export interface GrammarVocabulary extends TokenBytes {
  /** Rows of the logits: may be more than there are tokens. */
  readonly vocabSize: number
  readonly eosTokenIds: readonly number[]
}

export type GrammarCall =
  | { readonly kind: 'compile'; readonly source: GrammarSource }
  | { readonly kind: 'load'; readonly key: string; readonly network: Network }
  /** Forgets a grammar; matchers of it live on. */
  | { readonly kind: 'drop'; readonly key: string }
  | { readonly kind: 'create'; readonly key: string; readonly matcher: number }
  /** Takes the tokens drawn since the last mask and answers with the next one. */
  | { readonly kind: 'mask'; readonly matcher: number; readonly tokens: readonly number[] }
  | { readonly kind: 'close'; readonly matcher: number }

/** What a call gave: a compilation, a mask, or nothing but that it is done. */
export interface GrammarAnswer {
  readonly mask?: Uint32Array<ArrayBuffer>
  readonly compiled?: { readonly network: Network; readonly warnings: readonly string[] }
}
