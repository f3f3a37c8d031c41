/** The wire of an OpenAI-compatible engine: a request's body, its stream's chunks, its errors. */
import { EngineError } from './request.ts'
import type {
  ChatMessage,
  ChoiceLogprob,
  GenerationRequest,
  PromptInput,
  StructuredOutput,
  ToolCallDelta,
  ToolUse,
} from './request.ts'

/** One chunk of a stream, completions or chat, in the engine's terms. */
export interface RemoteChunk {
  readonly choices: readonly RemoteChoice[]
  readonly usage: {
    readonly promptTokens: number
    readonly completionTokens: number
    readonly cachedTokens: number
  } | null
}

export interface RemoteChoice {
  readonly index: number
  readonly text: string
  readonly toolCalls: readonly ToolCallDelta[]
  readonly tokenIds: readonly number[]
  readonly logprobs: readonly ChoiceLogprob[] | null
  readonly finishReason: string | null
  readonly stopReason: string | number | null
}

/** Path and body for one prompt. `maxModelLen`: a request for as much as that leaves the bound to the other engine. */
export function remoteRequest(
  request: GenerationRequest,
  prompt: PromptInput,
  model: string,
  maxModelLen: number,
): { readonly path: string; readonly body: Record<string, unknown> } {
  const common = commonFields(request, model, maxModelLen)
  if ('messages' in prompt) {
    const continues = prompt.continueFinalMessage === true
    return {
      path: 'chat/completions',
      body: {
        ...common,
        messages: prompt.messages.map(wireMessage),
        ...(request.toolUse === undefined ? {} : toolFields(request.toolUse)),
        ...(continues ? { continue_final_message: true, add_generation_prompt: false } : {}),
        ...(request.logprobs < 0 ? {} : { logprobs: true, top_logprobs: request.logprobs }),
      },
    }
  }
  return {
    path: 'completions',
    body: {
      ...common,
      prompt: 'ids' in prompt ? prompt.ids : prompt.text,
      ...(request.logprobs < 0 ? {} : { logprobs: request.logprobs }),
    },
  }
}

function toolFields({ tools, choice, parallel }: ToolUse): Record<string, unknown> {
  return {
    tools,
    ...(choice === 'auto'
      ? {}
      : { tool_choice: choice === 'required' ? choice : { type: 'function', function: { name: choice.name } } }),
    ...(parallel ? {} : { parallel_tool_calls: false }),
  }
}

function wireMessage({ toolCalls, toolCallId, ...message }: ChatMessage): Record<string, unknown> {
  return {
    ...message,
    ...(toolCallId === undefined ? {} : { tool_call_id: toolCallId }),
    ...(toolCalls === undefined
      ? {}
      : {
          tool_calls: toolCalls.map(({ id, name, arguments: args }) => ({
            id,
            type: 'function',
            function: { name, arguments: args },
          })),
        }),
  }
}

/** What differs from OpenAI's defaults: strict servers refuse fields they do not know, so none is sent without need. */
function commonFields(request: GenerationRequest, model: string, maxModelLen: number): Record<string, unknown> {
  const { sampling } = request
  const optional = (name: string, value: unknown, isDefault: boolean) => (isDefault ? {} : { [name]: value })
  return {
    model,
    stream: true,
    stream_options: { include_usage: true },
    temperature: sampling.temperature,
    top_p: sampling.topP,
    ...optional('n', request.n, request.n === 1),
    ...optional('max_tokens', request.maxTokens, request.maxTokens >= maxModelLen),
    ...optional('min_tokens', request.minTokens, request.minTokens === 0),
    ...optional('top_k', sampling.topK, sampling.topK === 0),
    ...optional('min_p', sampling.minP, sampling.minP === 0),
    ...optional('seed', sampling.seed, sampling.seed === null),
    ...optional('presence_penalty', sampling.presencePenalty, sampling.presencePenalty === 0),
    ...optional('frequency_penalty', sampling.frequencyPenalty, sampling.frequencyPenalty === 0),
    ...optional('repetition_penalty', sampling.repetitionPenalty, sampling.repetitionPenalty === 1),
    ...optional('logit_bias', sampling.logitBias, sampling.logitBias === null),
    ...optional('stop', request.stop, request.stop.length === 0),
    ...optional('stop_token_ids', request.stopTokenIds, request.stopTokenIds.length === 0),
    ...optional('include_stop_str_in_output', true, !request.includeStopString),
    ...optional('ignore_eos', true, !request.ignoreEos),
    ...optional('priority', request.priority, request.priority === 0),
    ...optional('cache_salt', request.cacheSalt, request.cacheSalt === ''),
    ...structuredFields(request.structured),
  }
}

function structuredFields(structured: StructuredOutput | null): Record<string, unknown> {
  if (structured === null) return {}
  switch (structured.kind) {
    case 'json_object':
      return { response_format: { type: 'json_object' } }
    case 'json_schema':
      return {
        response_format: {
          type: 'json_schema',
          json_schema: { name: 'answer', schema: structured.schema, strict: true },
        },
      }
    case 'regex':
      return { structured_outputs: { regex: structured.pattern } }
    case 'choice':
      return { structured_outputs: { choice: structured.choices } }
    case 'grammar':
      return { structured_outputs: { grammar: structured.ebnf } }
  }
}

/** Characters of one event, and bytes of a body that is no stream. What is longer is not what was asked for. */
const MAX_EVENT_CHARACTERS = 2 ** 23
const MAX_BODY_BYTES = 2 ** 23

/** A body as JSON, read no further than it may be long. Rejects for what is longer, or not JSON. */
export async function readJson(response: Response): Promise<unknown> {
  const chunks: Uint8Array[] = []
  let numBytes = 0
  for await (const bytes of response.body ?? []) {
    numBytes += bytes.length
    if (numBytes > MAX_BODY_BYTES) throw new Error(`expected a body of at most ${MAX_BODY_BYTES} bytes`)
    chunks.push(bytes)
  }
  return JSON.parse(Buffer.concat(chunks).toString('utf8'))
}

/**
 * The `data:` payloads of a server-sent event stream, without the closing [DONE]; throws upstream_error when that never comes, and for an
 * event without end.
 */
export async function* readServerSentEvents(body: AsyncIterable<Uint8Array>): AsyncGenerator<unknown, void, undefined> {
  const decoder = new TextDecoder()
  let buffered = ''
  for await (const bytes of body) {
    const piece = decoder.decode(bytes, { stream: true })
    buffered += piece
    // Looked through for its end once, not again with every piece.
    const lines = piece.includes('\n') ? buffered.split('\n') : [buffered]
    buffered = lines.pop() ?? ''
    if (buffered.length > MAX_EVENT_CHARACTERS) {
      throw new EngineError(
        'upstream_error',
        `the remote engine sent an event of over ${MAX_EVENT_CHARACTERS} characters`,
      )
    }
    for (const line of lines) {
      if (!line.startsWith('data:')) continue
      const data = line.slice('data:'.length).trim()
      if (data === '[DONE]') return
      yield parseJson(data)
    }
  }
  throw new EngineError('upstream_error', 'the remote engine ended its stream early')
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new EngineError('upstream_error', 'the remote engine sent a chunk that is not JSON', null, { cause })
  }
}

/** Reads a chunk. Throws upstream_error for an error frame. */
export function parseChunk(value: unknown): RemoteChunk {
  const chunk = object(value)
  if (chunk.error !== undefined && chunk.error !== null) {
    const { type, code } = object(chunk.error)
    throw new EngineError('upstream_error', `the remote engine failed while it answered (${describe({ type, code })})`)
  }
  return { choices: array(chunk.choices).map(parseChoice), usage: parseUsage(chunk.usage) }
}

function parseChoice(value: unknown): RemoteChoice {
  const choice = object(value)
  const { content, tool_calls: toolCalls } = object(choice.delta)
  const { stop_reason: stopReason, finish_reason: finishReason, text } = choice
  return {
    index: count(choice.index),
    text: typeof text === 'string' ? text : typeof content === 'string' ? content : '',
    toolCalls: array(toolCalls).map(parseToolCall),
    tokenIds: array(choice.token_ids).map(count),
    logprobs: parseLogprobs(choice.logprobs),
    finishReason: typeof finishReason === 'string' ? finishReason : null,
    stopReason: typeof stopReason === 'string' || typeof stopReason === 'number' ? stopReason : null,
  }
}

function parseToolCall(value: unknown): ToolCallDelta {
  const { index, id, function: called } = object(value)
  const { name, arguments: args } = object(called)
  const given = (text: unknown) => (typeof text === 'string' && text !== '' ? text : null)
  return {
    index: count(index),
    id: given(id),
    name: given(name),
    arguments: typeof args === 'string' ? args : '',
  }
}

function parseUsage(value: unknown): RemoteChunk['usage'] {
  if (typeof value !== 'object' || value === null) return null
  const usage = object(value)
  return {
    promptTokens: count(usage.prompt_tokens),
    completionTokens: count(usage.completion_tokens),
    cachedTokens: count(object(usage.prompt_tokens_details).cached_tokens),
  }
}

const utf8 = new TextEncoder()

/** Chat's {content: [...]} or completions' parallel arrays. Token ids are not known: -1. */
function parseLogprobs(value: unknown): ChoiceLogprob[] | null {
  if (typeof value !== 'object' || value === null) return null
  const logprobs = object(value)
  if (Array.isArray(logprobs.content)) {
    return logprobs.content.map((entry) => {
      const { top_logprobs: top, ...own } = object(entry)
      return toLogprob(
        named(own),
        array(top).map((candidate) => named(object(candidate))),
      )
    })
  }
  const values = array(logprobs.token_logprobs)
  const tops = array(logprobs.top_logprobs)
  return array(logprobs.tokens).map((token, i) =>
    toLogprob(
      named({ token, logprob: values[i] }),
      Object.entries(object(tops[i])).map(([candidate, logprob]) => named({ token: candidate, logprob })),
    ),
  )
}

type NamedLogprob = ChoiceLogprob['top'][number]

function named({ token, logprob, bytes }: Record<string, unknown>): NamedLogprob {
  const text = typeof token === 'string' ? token : ''
  return {
    tokenId: -1,
    token: text,
    bytes: Array.isArray(bytes) ? bytes.map(count) : [...utf8.encode(text)],
    logprob: typeof logprob === 'number' ? logprob : -Infinity,
  }
}

function toLogprob(own: NamedLogprob, top: readonly NamedLogprob[]): ChoiceLogprob {
  const rank = 1 + top.filter((candidate) => candidate.logprob > own.logprob).length
  const detail = {
    logprob: own.logprob,
    rank,
    topTokens: top.map(() => -1),
    topLogprobs: top.map((candidate) => candidate.logprob),
  }
  return { tokenId: own.tokenId, token: own.token, bytes: own.bytes, detail, top }
}

/** A refusal before the stream. What the other engine wrote is not passed on: it may quote the prompt. */
export function remoteRefusal(status: number, body: unknown): EngineError {
  const { type, code, param, message } = object(object(body).error ?? body)
  const facts = describe({ status, type, code, param })
  const isTooLong =
    code === 'context_length_exceeded' || (typeof message === 'string' && /maximum context length/i.test(message))
  const field = typeof param === 'string' ? param : null
  if (status === 400 && isTooLong) {
    return new EngineError(
      'context_length_exceeded',
      `the prompt is longer than the remote engine's context (${facts})`,
      field ?? 'prompt',
    )
  }
  if (status === 400 || status === 413 || status === 422) {
    return new EngineError('invalid_request', `the remote engine refused the request (${facts})`, field)
  }
  if (status === 429 || status === 503)
    return new EngineError('queue_full', `the remote engine is overloaded (${facts})`)
  if (status === 408 || status === 504)
    return new EngineError('upstream_timeout', `the remote engine took too long (${facts})`)
  return new EngineError('upstream_error', `the remote engine failed (${facts})`)
}

function describe(facts: Record<string, unknown>): string {
  const isShort = (value: unknown) =>
    typeof value === 'number' || (typeof value === 'string' && /^[\w.:\-[\]]{1,64}$/.test(value))
  const shown = Object.entries(facts).filter(([, value]) => isShort(value))
  return shown.map(([name, value]) => `${name} ${String(value)}`).join(', ') || 'no details'
}

function object(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? { ...value } : {}
}

function array(value: unknown): unknown[] {
  return Array.isArray(value) ? value : []
}

function count(value: unknown): number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 ? value : 0
}
