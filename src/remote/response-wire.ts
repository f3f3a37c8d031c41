/** Parses the answers of OpenAI-compatible engines: events of streams, chunks, refusals. */
import { createParser } from 'eventsource-parser'
import { EngineError } from '../engine/request.ts'
import type { ChoiceLogprob } from '../engine/request.ts'

/** The error of a remote engine that failed, or sent what cannot be used. */
export function upstreamError(message: string, cause?: unknown): EngineError {
  return new EngineError('upstream_error', message, null, { cause })
}

/** One chunk of a stream, completions or chat, in the engine's terms. */
export interface RemoteChunk {
  /** The answer's id at the other engine. */
  readonly id: string | null
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
  /** Reasoning that the server has separated from the answer. */
  readonly reasoning: string
  readonly toolCalls: readonly RemoteToolCall[]
  readonly tokenIds: readonly number[]
  readonly logprobs: readonly ChoiceLogprob[] | null
  readonly finishReason: string | null
  readonly stopReason: string | number | null
}

/** The number of tokens in a chunk's choice, as far as it is known: at least one if there is output for the client. */
export function numTokensOf({ text, reasoning, toolCalls, tokenIds, logprobs }: RemoteChoice): number {
  const hasOutput = text !== '' || reasoning !== '' || toolCalls.length > 0
  return Math.max(tokenIds.length, logprobs?.length ?? 0, hasOutput ? 1 : 0)
}

/** A piece of a function call, as servers send it: some leave the index out, or the id. */
export interface RemoteToolCall {
  readonly index: number | null
  readonly id: string | null
  readonly name: string | null
  readonly arguments: string
}

/** Limits on the characters of an event and on the bytes of a body that is not a stream. */
const MAX_EVENT_CHARACTERS = 2 ** 23
const MAX_BODY_BYTES = 2 ** 23

/** Reads a body as JSON. Rejects if it is too long or not JSON. */
export async function readResponseJson(response: Response): Promise<unknown> {
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
 * The JSON of each event of a stream, up to [DONE] or the stream's end: its choices show when an answer is finished. Events are read as the standard
 * has them (https://html.spec.whatwg.org/multipage/server-sent-events.html): lines end with LF, CR or both, data of several lines is one text, and an
 * event without data is none.
 * @throws upstream_error for an event without end, and for one that is not JSON
 */
async function* readServerSentEvents(body: AsyncIterable<Uint8Array>): AsyncGenerator<unknown, void, undefined> {
  const decoder = new TextDecoder()
  let events: string[] = []
  let numPending = 0
  const parser = createParser({
    onEvent: ({ data }) => {
      events.push(data)
      numPending = 0
    },
  })
  const take = (): string[] => {
    const taken = events
    events = []
    return taken
  }
  for await (const bytes of body) {
    const piece = decoder.decode(bytes, { stream: true })
    numPending += piece.length
    parser.feed(piece)
    if (numPending > MAX_EVENT_CHARACTERS) {
      throw upstreamError(`the remote engine sent an event of over ${MAX_EVENT_CHARACTERS} characters`)
    }
    for (const data of take()) {
      if (data.trim() === '[DONE]') return
      if (data.trim() !== '') yield parseJson(data)
    }
  }
  // Some servers close without the empty line that ends an event.
  parser.feed('\n\n')
  for (const data of take()) if (data.trim() !== '[DONE]' && data.trim() !== '') yield parseJson(data)
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw upstreamError('the remote engine sent a chunk that is not JSON', cause)
  }
}

/**
 * An accepted answer that is no stream: whole, as one chunk; null for a stream, whose body is left to be read. What an answer of another kind says,
 * such as a proxy's page in HTML, is not passed on.
 * @throws EngineError for an error in place of an answer
 */
export async function readWholeAnswer(response: Response): Promise<RemoteChunk | null> {
  const type = response.headers.get('content-type')?.split(';')[0]?.trim().toLowerCase() ?? ''
  if (type === 'text/html') {
    const message = 'the remote engine answered with a page in HTML; does its address lead to an API?'
    throw upstreamError(message)
  }
  if (type !== 'application/json') return null
  const answer = await readResponseJson(response).catch((cause: unknown) => {
    throw upstreamError(NOT_JSON, cause)
  })
  const { error } = object(answer)
  if (error === undefined || error === null) return parseChunk(answer)
  const { code, status } = object(error)
  throw remoteRefusal(count(code) || count(status) || response.status, answer, response.headers.get('retry-after'))
}

/** The chunks of a stream. @throws EngineError upstream_error */
export async function* readAnswerChunks(body: AsyncIterable<Uint8Array>): AsyncGenerator<RemoteChunk, void, undefined> {
  for await (const value of readServerSentEvents(body)) yield parseChunk(value)
}

const NOT_JSON = 'the remote engine sent an answer that is not JSON'

/** Reads a chunk. @throws upstream_error for an error frame */
function parseChunk(value: unknown): RemoteChunk {
  const chunk = object(value)
  // Older vLLM servers send the error itself.
  const failure = chunk.object === 'error' ? chunk : chunk.error
  if (failure !== undefined && failure !== null) {
    const { type, code } = object(failure)
    // An invalid request may be detected only when it is scheduled, after the status 200 was sent.
    if (count(code) >= 400 && count(code) < 500) throw remoteRefusal(count(code), value, null)
    throw upstreamError(`the remote engine failed while it answered (${describe({ type, code })})`)
  }
  return {
    id: typeof chunk.id === 'string' && /^[\w.:-]{1,128}$/.test(chunk.id) ? chunk.id : null,
    choices: array(chunk.choices).map(parseChoice),
    usage: parseUsage(chunk.usage),
  }
}

function parseChoice(value: unknown): RemoteChoice {
  const choice = object(value)
  // A server that does not stream gives the whole message at once.
  const {
    content,
    tool_calls: toolCalls,
    reasoning_content: thoughts,
    reasoning,
  } = object(choice.delta ?? choice.message)
  const { stop_reason: stopReason, finish_reason: finishReason, text } = choice
  if (finishReason === 'error') throw upstreamError('the remote engine failed while it answered')
  return {
    index: count(choice.index),
    text: typeof text === 'string' ? text : textOfContent(content),
    reasoning: typeof thoughts === 'string' ? thoughts : typeof reasoning === 'string' ? reasoning : '',
    toolCalls: array(toolCalls).map(parseToolCall),
    tokenIds: array(choice.token_ids).map(count),
    logprobs: parseLogprobs(choice.logprobs),
    finishReason: typeof finishReason === 'string' ? finishReason : null,
    stopReason: typeof stopReason === 'string' || typeof stopReason === 'number' ? stopReason : null,
  }
}

/** A text, or the texts of parts, as some servers send them. */
const textOfContent = (content: unknown): string => {
  if (typeof content === 'string') return content
  const texts = array(content).map((part) => object(part).text)
  return texts.filter((text) => typeof text === 'string').join('')
}

function parseToolCall(value: unknown): RemoteToolCall {
  const { index, id, function: called } = object(value)
  const { name, arguments: args } = object(called)
  const given = (text: unknown) => (typeof text === 'string' && text !== '' ? text : null)
  return {
    index: typeof index === 'number' && Number.isInteger(index) && index >= 0 ? index : null,
    id: given(id),
    name: given(name),
    // Ollama sends the arguments as an object.
    arguments: typeof args === 'string' ? args : typeof args === 'object' && args !== null ? JSON.stringify(args) : '',
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
export function remoteRefusal(status: number, body: unknown, retryAfter: string | null): EngineError {
  const { type, code, param, message } = object(object(body).error ?? body)
  const facts = describe({ status, type, code, param })
  const isTooLong =
    code === 'context_length_exceeded' ||
    // llama-server's word for it.
    type === 'exceed_context_size_error' ||
    (typeof message === 'string' && /maximum context length/i.test(message))
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
  if (status === 429 || status === 503) {
    const seconds = secondsOf(retryAfter)
    const options = seconds === null ? {} : { retryAfterSeconds: seconds }
    return new EngineError('queue_full', `the remote engine is overloaded (${facts})`, null, options)
  }
  if (status === 408 || status === 504)
    return new EngineError('upstream_timeout', `the remote engine took too long (${facts})`)
  if (status >= 300 && status < 400) {
    // Prompts go to the address that was configured and to no other.
    return upstreamError(`the remote engine answers with a redirect, which is not followed (${facts})`)
  }
  return upstreamError(`the remote engine failed (${facts})`)
}

/** One day. A wrong clock at the remote engine must not keep clients away for years. */
const MAX_RETRY_SECONDS = 86_400

/** Of a Retry-After header: seconds, or a date. */
function secondsOf(header: string | null): number | null {
  if (header === null) return null
  const isNumber = /^\s*\d+(\.\d+)?\s*$/.test(header)
  const seconds = isNumber ? Number(header) : (Date.parse(header) - Date.now()) / 1000
  return Number.isNaN(seconds) ? null : Math.min(MAX_RETRY_SECONDS, Math.max(0, Math.ceil(seconds)))
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
