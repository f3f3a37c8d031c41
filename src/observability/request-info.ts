/** What the server tells of a request: what arrived, what its body asked for, what came of it, and how it ended. */
import type { EndingName } from './endings.ts'

export type RouteKind = 'generation' | 'retrieval' | 'other'

export interface OpenRequestInput {
  readonly method: string
  /** The route pattern. */
  readonly route: string
  /** Path without query. */
  readonly path: string
  readonly scheme: string
  readonly host: string
  readonly port: number
  readonly headers: { readonly traceparent?: string | undefined; readonly tracestate?: string | undefined }
  /** The cmpl-... or chatcmpl-... id. */
  readonly requestId: string
  /** The caller's X-Request-Id; null: it sent none. */
  readonly callerId?: string | null
  readonly kind: RouteKind
  readonly keyId?: string
}

/** What the body asked for. Absent fields were not sent. */
export interface GenerationInfo {
  readonly operation: 'text_completion' | 'chat' | 'embeddings' | 'retrieval'
  readonly model: string
  /** Sequences of the request: prompts times n. */
  readonly numChoices?: number
  /** Choices a prompt; a prompt's tokens count once whatever n. */
  readonly n?: number
  readonly maxTokens?: number | null
  readonly temperature?: number | null
  readonly topP?: number | null
  readonly topK?: number | null
  readonly seed?: number | null
  /** How many were sent. */
  readonly stopSequences?: number
  readonly stream?: boolean
}

/** What came of it. May be told more than once; the last word before the trace closes counts. */
export interface ResultInfo {
  readonly tokensIn: number
  readonly tokensOut: number
  readonly cachedTokens: number
  readonly finishReasons: readonly string[]
  readonly timeToFirstTokenSeconds: number | null
  /** max_tokens: 0. */
  readonly isScored: boolean
}

export interface FinishInput {
  readonly ending: EndingName
  /** The status sent; null: none was. */
  readonly status: number | null
  /** Its class and stable code are recorded, its message is not. */
  readonly error?: unknown
}
