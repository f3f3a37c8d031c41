/** The format of Messages responses: a message of content blocks, its stream of named events, and errors. */
import type { ChoiceFinishedEvent, TokenEvent } from '../../engine/request.ts'
import type { ApiError } from '../errors.ts'
import { type ChoiceResult, type GenerationResult, tailOf } from '../generation-result.ts'
import type { GenerationJob } from '../job.ts'
import type { Shape } from '../output.ts'

type Finished = Pick<ChoiceFinishedEvent, 'reason' | 'stopReason'>

/** Formats a generation as a Messages object or its event stream. */
export function messagesShape(job: GenerationJob): Shape {
  const head = { id: job.requestId, type: 'message', role: 'assistant', model: job.model }
  const stream = new BlockStream()
  let hasCalls = false
  return {
    body: (result, citations) => {
      const [choice] = result.shown
      const { usage: _, ...tail } = tailOf(result, citations)
      return {
        ...head,
        content: contentOf(choice),
        ...stopOf(choice?.finished ?? null, choice?.hasCalls ?? false),
        usage: usageOf(result),
        ...tail,
      }
    },
    opening: () => '',
    prompt: ({ numTokens }) => {
      if (stream.isStarted) return ''
      stream.isStarted = true
      const usage = { input_tokens: numTokens, output_tokens: 0 }
      const message = { ...head, content: [], stop_reason: null, stop_sequence: null, usage }
      return event('message_start', { message })
    },
    echo: () => '',
    token: (token) => {
      hasCalls ||= token.toolCalls !== undefined
      return stream.token(token)
    },
    finished: () => stream.close(),
    closing(result, citations) {
      const { usage: _, ...tail } = tailOf(result, citations)
      const delta = stopOf(result.finished[0] ?? null, hasCalls)
      return event('message_delta', { delta, usage: usageOf(result), ...tail }) + event('message_stop', {})
    },
    error: (error) => event('error', errorFields(error)),
    done: '',
  }
}

const event = (type: string, fields: object): string =>
  `event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`

/** Anthropic counts cached tokens separately from the rest of the input. */
function usageOf(result: GenerationResult) {
  const cached = result.summary.cacheHits
  return {
    input_tokens: result.numPromptTokens - cached,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: cached,
    output_tokens: result.summary.tokensOut,
  }
}

function stopOf(finished: Finished | null, hasCalls: boolean) {
  const sequence = typeof finished?.stopReason === 'string' ? finished.stopReason : null
  const reason =
    finished?.reason === 'length' || finished?.reason === 'abort'
      ? 'max_tokens'
      : hasCalls
        ? 'tool_use'
        : sequence === null
          ? 'end_turn'
          : 'stop_sequence'
  return { stop_reason: finished === null ? null : reason, stop_sequence: reason === 'stop_sequence' ? sequence : null }
}

/** Blocks for the reasoning, the text and the calls, in this order. */
function contentOf(choice: ChoiceResult | undefined): unknown[] {
  if (choice === undefined) return []
  return [
    ...(choice.reasoning === '' ? [] : [{ type: 'thinking', thinking: choice.reasoning, signature: '' }]),
    ...(choice.text === '' ? [] : [{ type: 'text', text: choice.text }]),
    ...choice.calls.map((call) => ({ type: 'tool_use', id: call.id, name: call.name, input: inputOf(call.arguments) })),
  ]
}

/** The arguments as an object, which the API requires. If a call was cut off, they are kept as text inside an object. */
function inputOf(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text === '' ? '{}' : text)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  } catch {
    // Not JSON: as below.
  }
  return { arguments: text }
}

/** The blocks of one streamed message, which follow each other. */
class BlockStream {
  isStarted = false
  #index = -1
  #open: 'thinking' | 'text' | 'tool_use' | null = null

  token({ text, reasoning = '', toolCalls }: TokenEvent): string {
    let frames = reasoning === '' ? '' : this.#thinking(reasoning)
    if (text !== '') frames += this.#text(text)
    for (const { id, name, arguments: json } of toolCalls ?? []) {
      if (id !== null) frames += this.close() + this.#start('tool_use', { type: 'tool_use', id, name, input: {} })
      if (json !== '') frames += this.#delta({ type: 'input_json_delta', partial_json: json })
    }
    return frames
  }

  close(): string {
    if (this.#open === null) return ''
    this.#open = null
    return event('content_block_stop', { index: this.#index })
  }

  #thinking(thinking: string): string {
    const isOpen = this.#open === 'thinking'
    const start = isOpen
      ? ''
      : this.close() + this.#start('thinking', { type: 'thinking', thinking: '', signature: '' })
    return start + this.#delta({ type: 'thinking_delta', thinking })
  }

  #text(text: string): string {
    const start = this.#open === 'text' ? '' : this.close() + this.#start('text', { type: 'text', text: '' })
    return start + this.#delta({ type: 'text_delta', text })
  }

  #start(type: 'thinking' | 'text' | 'tool_use', block: object): string {
    this.#open = type
    this.#index++
    return event('content_block_start', { index: this.#index, content_block: block })
  }

  #delta(delta: object): string {
    return event('content_block_delta', { index: this.#index, delta })
  }
}

const ERROR_TYPES: Readonly<Record<number, string>> = {
  400: 'invalid_request_error',
  401: 'authentication_error',
  403: 'permission_error',
  404: 'not_found_error',
  413: 'request_too_large',
  429: 'rate_limit_error',
  503: 'overloaded_error',
  504: 'timeout_error',
}

const errorFields = (error: ApiError) => ({
  error: {
    type: ERROR_TYPES[error.status] ?? (error.status < 500 ? 'invalid_request_error' : 'api_error'),
    message: error.message,
  },
})

/** The body of an error answer on this API's routes. */
export const toMessagesErrorBody = (error: ApiError, requestId: string) => ({
  type: 'error',
  ...errorFields(error),
  request_id: requestId,
})
