/** Attributes of http.handler: of the request that arrived, what its body asked for, and the result. */
import type { RequestSummary } from '../engine/summary.ts'
import type { ROOT_SPAN, SpanAttributes } from './contract.ts'

/** Values of http.handler. */
export type RootAttributes = SpanAttributes<typeof ROOT_SPAN>

export type RouteKind = 'generation' | 'retrieval' | 'other'

/** A request as it arrived. */
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
  /** The caller's X-Request-Id. */
  readonly callerId?: string | null
  readonly kind: RouteKind
  /** Whether the request is a probe. Successful probes are logged at level debug only. */
  readonly isProbe?: boolean
  readonly keyId?: string
}

/** What the body asked for. Absent fields were not sent. */
export interface GenerationInfo {
  readonly operation: 'text_completion' | 'chat' | 'embeddings' | 'retrieval'
  readonly model: string
  /** The model that `model` is an adapter of; null or absent: it is not an adapter. */
  readonly parentModel?: string | null
  /** Sequences of the request: prompts times n. */
  readonly numChoices?: number
  /** Choices per prompt; a prompt's tokens count once for any n. */
  readonly n?: number
  readonly maxTokens?: number | null
  readonly temperature?: number | null
  readonly topP?: number | null
  readonly topK?: number | null
  readonly seed?: number | null
  /** How many were sent. */
  readonly stopSequences?: number
  readonly stream?: boolean
  /** Whether the output must be JSON. */
  readonly isJson?: boolean
}

/** The result. It may be reported more than once; the last report before the trace closes counts. */
export interface ResultInfo {
  readonly tokensIn: number
  readonly tokensOut: number
  readonly cachedTokens: number
  readonly finishReasons: readonly string[]
  readonly timeToFirstTokenSeconds: number | null
  /** max_tokens: 0. */
  readonly isScored: boolean
}

/** Whether a value looks like an id. Anything else could be content. */
export const isConversationId = (id: unknown): id is string =>
  typeof id === 'string' && /^[A-Za-z0-9._:@/+=-]{1,128}$/.test(id)

/** Root attributes that are known before the body is read. */
export function arrivalAttributes(input: OpenRequestInput): RootAttributes {
  return {
    'http.method': input.method,
    'http.route': input.route,
    'llm.request.id': input.requestId,
    'http.request.header.x-request-id': input.callerId ? [input.callerId] : undefined,
    // Path parameters are omitted: names of documents may reveal what they are about.
    'url.path': input.route.includes('{') ? input.route : input.path,
    'url.scheme': input.scheme,
    'server.address': input.host,
    'server.port': input.port,
  } as RootAttributes
}

/** Root attributes of a valid body: model, operation and sampling parameters. */
export function generationAttributes(info: GenerationInfo): RootAttributes {
  const isGeneration = info.operation === 'chat' || info.operation === 'text_completion'
  return {
    'llm.model': info.model,
    'llm.model.parent': info.parentModel ?? undefined,
    'llm.choices': info.numChoices !== undefined && info.numChoices > 1 ? info.numChoices : undefined,
    'llm.stop_sequences': info.stopSequences ? info.stopSequences : undefined,
    'gen_ai.operation.name': info.operation,
    'gen_ai.provider.name': 'miniserve',
    'gen_ai.request.max_tokens': info.maxTokens ?? undefined,
    'gen_ai.request.temperature': info.temperature ?? undefined,
    'gen_ai.request.top_p': info.topP ?? undefined,
    'gen_ai.request.top_k': (info.topK ?? 0) > 0 ? info.topK : undefined,
    'gen_ai.request.seed': info.seed ?? undefined,
    'gen_ai.request.stream': info.stream || undefined,
    'gen_ai.request.choice.count': info.n !== undefined && info.n !== 1 ? info.n : undefined,
    'gen_ai.output.type': isGeneration ? (info.isJson ? 'json' : 'text') : undefined,
  } as RootAttributes
}

/** What is known at the end of a request that the engine accepted. */
interface Outcome {
  readonly requestId: string
  readonly isScored: boolean
  readonly tokensIn: number
  readonly tokensOut: number | null
  readonly finishReasons: readonly string[] | undefined
  readonly summary: RequestSummary | null
  readonly result: ResultInfo | null
  /** From the request's arrival to the first chunk of its stream; null if no chunk was sent. */
  readonly firstChunkSeconds: number | null
}

/** Root attributes of the result: token counts, times in milliseconds, finish reasons. */
export function outcomeAttributes(outcome: Outcome): RootAttributes {
  const { summary, result, tokensIn } = outcome
  const answer = { 'gen_ai.response.id': outcome.requestId, 'gen_ai.response.finish_reasons': outcome.finishReasons }
  // A prompt that is only scored generates nothing, and must not look like an empty answer.
  if (outcome.isScored)
    return { ...answer, 'llm.scored': true, 'gen_ai.usage.input_tokens': tokensIn } as RootAttributes
  return {
    ...answer,
    'llm.tokens.in': tokensIn,
    'llm.tokens.out': outcome.tokensOut ?? 0,
    'llm.ttft_ms':
      summary?.ttftSeconds === undefined || summary.ttftSeconds === null ? undefined : summary.ttftSeconds * 1000,
    'gen_ai.usage.cache_read.input_tokens': summary?.cacheHits ?? result?.cachedTokens,
    'gen_ai.response.finish_reasons': outcome.finishReasons ?? ['error'],
    'gen_ai.response.time_to_first_chunk': outcome.firstChunkSeconds ?? undefined,
  } as RootAttributes
}
