/**
 * Zod schemas of the responses. /openapi.json is generated from them, and the end-to-end tests validate every response. Objects may have
 * more fields than are named here.
 */
import { z } from 'zod'
import { MODEL_STATES } from './served-models.ts'

const object = <T extends z.ZodRawShape>(shape: T) => z.looseObject(shape)
const count = z.int().min(0)

const error = object({
  message: z.string(),
  type: z.string(),
  param: z.string().nullable(),
  code: z.string().nullable(),
})
export const errorBody = object({ error })
export const messagesErrorBody = object({
  type: z.literal('error'),
  error: object({ type: z.string(), message: z.string() }),
  request_id: z.string(),
})

const usage = object({
  prompt_tokens: count,
  completion_tokens: count,
  total_tokens: count,
  completion_tokens_details: object({ reasoning_tokens: count }).optional(),
})
const timings = object({
  grammar_ms: z.number(),
  queue_ms: z.number(),
  prefill_ms: z.number(),
  decode_ms: z.number(),
  ttft_ms: z.number(),
  tokens_per_second: z.number(),
})
const citations = object({
  index: z.string(),
  reranked: z.boolean(),
  documents: z.array(
    object({
      id: z.string(),
      chunk: count,
      source: z.string().nullable(),
      anchor: z.string().nullable(),
      score: z.number(),
      rank: z.int(),
    }),
  ),
})

/** Fields of the last chunk of a stream, and of every whole response. */
const tail = { usage, timings, rag: citations.optional() }
const streamTail = { usage: usage.nullish(), timings: timings.optional(), rag: citations.optional() }
const head = { id: z.string(), created: count, model: z.string(), system_fingerprint: z.string() }
const finish = z.enum(['stop', 'length', 'tool_calls', 'abort', 'content_filter']).nullable()
const stopReason = z.union([z.string(), z.int()]).nullable()
const tokenIds = z.array(count)

const legacyLogprobs = object({
  tokens: z.array(z.string()),
  token_logprobs: z.array(z.number().nullable()),
  top_logprobs: z.array(z.record(z.string(), z.number().nullable()).nullable()).nullable(),
  text_offset: z.array(count),
})

const completionChoice = object({
  index: count,
  text: z.string(),
  logprobs: legacyLogprobs.nullable(),
  finish_reason: finish,
  stop_reason: stopReason.optional(),
  token_ids: tokenIds.optional(),
  prompt_token_ids: tokenIds.optional(),
})

const completionFields = { ...head, object: z.literal('text_completion'), choices: z.array(completionChoice) }
export const completion = object({ ...completionFields, ...tail })
export const completionChunk = object({ ...completionFields, ...streamTail })

const topLogprob = { token: z.string(), logprob: z.number(), bytes: z.array(count).nullable() }
const chatLogprobs = object({
  content: z.array(object({ ...topLogprob, top_logprobs: z.array(object(topLogprob)) })).nullable(),
  refusal: z.null(),
})
const toolCall = object({
  id: z.string(),
  type: z.literal('function'),
  function: object({ name: z.string(), arguments: z.string() }),
})

export const chatCompletion = object({
  ...head,
  object: z.literal('chat.completion'),
  choices: z.array(
    object({
      index: count,
      message: object({
        role: z.literal('assistant'),
        content: z.string().nullable(),
        refusal: z.null(),
        reasoning_content: z.string().optional(),
        reasoning: z.string().optional(),
        tool_calls: z.array(toolCall).optional(),
      }),
      logprobs: chatLogprobs.nullable(),
      finish_reason: finish,
      stop_reason: stopReason,
      token_ids: tokenIds.optional(),
    }),
  ),
  prompt_token_ids: tokenIds.optional(),
  ...tail,
})
export const chatChunk = object({
  ...head,
  object: z.literal('chat.completion.chunk'),
  choices: z.array(
    object({
      index: count,
      delta: object({
        role: z.literal('assistant').optional(),
        content: z.string().nullish(),
        reasoning_content: z.string().optional(),
        reasoning: z.string().optional(),
        tool_calls: z
          .array(
            object({
              index: count,
              id: z.string().optional(),
              type: z.literal('function').optional(),
              function: object({ name: z.string().optional(), arguments: z.string() }),
            }),
          )
          .optional(),
      }),
      logprobs: chatLogprobs.nullable(),
      finish_reason: finish,
      stop_reason: stopReason.optional(),
      token_ids: tokenIds.optional(),
    }),
  ),
  prompt_token_ids: tokenIds.optional(),
  ...streamTail,
})

export const response = object({
  id: z.string(),
  object: z.literal('response'),
  created_at: count,
  status: z.enum(['in_progress', 'completed', 'incomplete', 'failed']),
  model: z.string(),
  output: z.array(object({ type: z.string(), id: z.string(), status: z.string() })),
  usage: object({ input_tokens: count, output_tokens: count, total_tokens: count }).nullable(),
})
export const responseEvent = object({ type: z.string(), sequence_number: count })
export const deletedResponse = object({ id: z.string(), object: z.literal('response'), deleted: z.literal(true) })

export const message = object({
  id: z.string(),
  type: z.literal('message'),
  role: z.literal('assistant'),
  model: z.string(),
  content: z.array(object({ type: z.string() })),
  stop_reason: z.string().nullable(),
  stop_sequence: z.string().nullable(),
  usage: object({ input_tokens: count, output_tokens: count }),
})
export const messageEvent = object({ type: z.string() })
export const countedTokens = object({ input_tokens: count })

export const model = object({
  id: z.string(),
  object: z.literal('model'),
  created: count,
  owned_by: z.string(),
  root: z.string(),
  parent: z.string().nullable(),
  kind: z.enum(['generation', 'embedding', 'reranking']),
  state: z.enum(MODEL_STATES),
  max_model_len: count.optional(),
})
export const modelList = object({ object: z.literal('list'), data: z.array(model) })

const strings = z.array(z.string())
export const tokenized = object({
  tokens: z.union([tokenIds, z.array(tokenIds)]),
  count,
  max_model_len: count,
  token_strs: z.union([strings, z.array(strings)]).optional(),
})
export const tokenizerInfo = object({
  bos_token: z.string().nullable(),
  eos_token: z.string().nullable(),
  pad_token: z.string().nullable(),
  chat_template: z.string().nullable(),
})
export const detokenized = object({ prompt: z.string() })

export const embeddings = object({
  object: z.literal('list'),
  data: z.array(
    object({ object: z.literal('embedding'), index: count, embedding: z.union([z.array(z.number()), z.string()]) }),
  ),
  model: z.string(),
  usage: object({ prompt_tokens: count, total_tokens: count }),
})

export const reranked = object({
  id: z.string(),
  model: z.string(),
  results: z.array(
    object({ index: count, relevance_score: z.number(), document: object({ text: z.string() }).optional() }),
  ),
  usage: object({ prompt_tokens: count, total_tokens: count }),
})
export const scores = object({
  id: z.string(),
  object: z.literal('list'),
  created: count,
  model: z.string(),
  data: z.array(object({ index: count, object: z.literal('score'), score: z.number() })),
  usage: object({ prompt_tokens: count, total_tokens: count }),
})

export const ingested = object({
  index: z.string(),
  accepted: count,
  rejected: z.array(object({ id: z.string(), line: count.optional(), reason: z.string() })),
  chunks: count,
})
export const ingestedFile = ingested.extend({ warnings: z.array(object({ id: z.string(), reason: z.string() })) })
export const document = object({
  id: z.string(),
  source: z.string().nullable(),
  metadata: z.record(z.string(), z.unknown()),
  chunks: z.array(object({ text: z.string(), num_tokens: count })),
})
export const deletedDocument = object({ id: z.string(), deleted: z.literal(true) })
export const indexes = object({
  default: z.string(),
  indexes: z.array(
    object({
      name: z.string(),
      owner: z.string().nullable(),
      documents: count,
      chunks: count,
      bytes: z.number(),
      bundled: z.boolean(),
    }),
  ),
})
export const deletedIndex = object({ index: z.string(), deleted: z.literal(true) })
export const found = object({
  index: z.string(),
  reranked: z.boolean(),
  documents: z.array(object({ id: z.string(), score: z.number() })),
})

export const traceList = object({
  traces: z.array(
    object({
      trace_id: z.string(),
      request_id: z.string(),
      caller_request_id: z.string().nullable(),
      conversation_id: z.string().nullable(),
      key_id: z.string().nullable(),
      route: z.string(),
      status: z.int().nullable(),
      ending: z.string(),
      is_error: z.boolean(),
      start: z.string(),
      duration_ms: z.number(),
      num_spans: count,
    }),
  ),
})
/** In the requested format. */
export const trace = z.unknown()
export const validation = object({
  trace_id: z.string(),
  level: z.string(),
  ok: z.boolean(),
  breaches: z.array(object({ rule: z.string(), message: z.string() })),
})

/** JSON-RPC. */
export const mcp = object({ jsonrpc: z.literal('2.0') })

export const health = object({ status: z.literal('ok') })
export const readiness = object({
  status: z.enum(['ready', 'loading', 'draining', 'unavailable']),
  /** Why the engine is unavailable. */
  reason: z.string().optional(),
})
export const version = object({
  version: z.string(),
  revision: z.string().nullable(),
  node: z.string(),
  device: object({ kind: z.string() }).nullable(),
})
export const openApi = object({ openapi: z.string(), info: object({ title: z.string() }), paths: object({}) })
