/** What crosses between grammar-thread.ts and grammar-worker.ts. */
import type { GrammarSource } from './grammar-source.ts'

/** The vocabulary as the grammar library takes it. */
export interface GrammarVocabulary {
  /** Tokens as the vocabulary spells them; '' for those that no grammar may draw. */
  readonly tokens: readonly string[]
  readonly spelling: 'byte_level' | 'byte_fallback' | 'raw'
  readonly eosTokenIds: readonly number[]
}

export type GrammarCall =
  | { readonly kind: 'compile'; readonly key: string; readonly source: GrammarSource }
  /** Forgets a compiled grammar; matchers of it live on. */
  | { readonly kind: 'drop'; readonly key: string }
  | { readonly kind: 'create'; readonly key: string; readonly matcher: number }
  /** Takes the tokens drawn since the last mask and answers with the next one. */
  | { readonly kind: 'mask'; readonly matcher: number; readonly tokens: readonly number[] }
  | { readonly kind: 'close'; readonly matcher: number }

export interface GrammarRequest {
  readonly id: number
  readonly call: GrammarCall
}

/** `mask` answers a mask call; the others have nothing to say but that they are done. */
export type GrammarResponse =
  | { readonly id: number; readonly mask: Uint32Array<ArrayBuffer> | null }
  | { readonly id: number; readonly error: string }
