/** What crosses between text-service.ts and text-worker.ts. */
import type { TemplateSources } from './chat-template.ts'
import type { EngineErrorCode, PromptInput } from '../request.ts'

/** What the thread makes its own copy of tokenizer and template from. */
export interface TextThreadData {
  /** The model's folder or file. */
  readonly path: string
  readonly template: TemplateSources | null
  readonly maxModelLen: number
}

export type TextCall =
  /** Resolves when the tokenizer is loaded. */
  | { readonly kind: 'load' }
  | { readonly kind: 'encode'; readonly prompts: readonly PromptInput[]; readonly addSpecialTokens: boolean }
  | { readonly kind: 'decode'; readonly ids: readonly number[]; readonly skipSpecialTokens: boolean }

export type TextAnswer =
  | { readonly kind: 'load' }
  | { readonly kind: 'encode'; readonly ids: readonly Uint32Array<ArrayBuffer>[] }
  | { readonly kind: 'decode'; readonly text: string }

/** An EngineError as it crosses. */
export interface TextRefusal {
  readonly code: EngineErrorCode
  readonly message: string
  readonly param: string | null
}
