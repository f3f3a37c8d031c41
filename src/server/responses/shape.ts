/** The format of Responses: a response object of output items, and its stream of numbered events. */
import type { ChoiceFinishedEvent, TokenEvent } from '../../engine/request.ts'
import { type ApiError, toErrorBody } from '../errors.ts'
import { type ChoiceResult, type GenerationResult, tailOf } from '../generation-result.ts'
import type { Citations } from '../../rag/service.ts'
import type { GenerationJob } from '../job.ts'
import type { Shape } from '../output.ts'
import { dataFrame, dataFramePieces } from '../sse.ts'
import type { ResponsesRequest } from './wire.ts'

export interface ResponseObject {
  readonly id: string
  readonly object: 'response'
  readonly status: 'in_progress' | 'completed' | 'incomplete' | 'failed'
  readonly output: readonly ReturnType<typeof itemOf>[]
  readonly [field: string]: unknown
}

/** Formats a generation as a response object or its event stream. @param onEnd gets the complete response */
export function responsesShape(
  job: GenerationJob,
  body: ResponsesRequest,
  onEnd: (response: ResponseObject) => void,
): Shape {
  const stream = new ResponseStream(job, body)
  return {
    body(result, citations) {
      stream.add(result.shown[0])
      const response = whole(job, body, stream.items, result, citations)
      onEnd(response)
      return response
    },
    opening: () => stream.opening(),
    prompt: () => '',
    echo: () => '',
    token: (event) => stream.token(event),
    finished: (event) => stream.finished(event),
    closing(result, citations) {
      const response = whole(job, body, stream.items, result, citations)
      onEnd(response)
      return stream.whole(`response.${response.status}`, response)
    },
    error: (error) => stream.error(error),
    done: '',
  }
}

/** The response before it has any output. */
function started(job: GenerationJob, body: ResponsesRequest): ResponseObject {
  return {
    id: job.requestId,
    object: 'response',
    created_at: job.created,
    status: 'in_progress',
    background: false,
    error: null,
    incomplete_details: null,
    instructions: body.instructions ?? null,
    max_output_tokens: body.max_output_tokens ?? null,
    model: job.model,
    output: [],
    parallel_tool_calls: body.parallel_tool_calls ?? true,
    previous_response_id: body.previous_response_id ?? null,
    reasoning: { effort: body.reasoning?.effort ?? null, summary: null },
    store: body.store ?? true,
    temperature: job.generation.sampling.temperature,
    text: { format: body.text?.format ?? { type: 'text' } },
    tool_choice: body.tool_choice ?? 'auto',
    tools: (body.tools ?? []).map(({ description, parameters, strict, ...tool }) => ({
      ...tool,
      description: description ?? null,
      parameters: parameters ?? null,
      strict: strict ?? false,
    })),
    top_logprobs: 0,
    top_p: job.generation.sampling.topP,
    truncation: 'disabled',
    usage: null,
    user: body.user ?? null,
    metadata: body.metadata ?? {},
  }
}

function whole(
  job: GenerationJob,
  body: ResponsesRequest,
  output: ResponseObject['output'],
  result: GenerationResult,
  citations: Citations | null,
): ResponseObject {
  const reason = result.shown[0]?.finished?.reason
  const isCut = reason === 'length' || reason === 'abort'
  const { usage: _, ...tail } = tailOf(result, citations)
  const { prompt_tokens: input, completion_tokens: generated, total_tokens: total, ...details } = result.usage()
  return {
    ...started(job, body),
    status: isCut ? 'incomplete' : 'completed',
    incomplete_details: isCut ? { reason: 'max_output_tokens' } : null,
    output,
    usage: {
      input_tokens: input,
      input_tokens_details: details.prompt_tokens_details,
      output_tokens: generated,
      output_tokens_details: { reasoning_tokens: result.summary.reasoningTokens },
      total_tokens: total,
    },
    ...tail,
  }
}

const outputText = (text: string) => ({
  type: 'output_text' as const,
  text,
  annotations: [] as never[],
  logprobs: [] as never[],
})
const itemId = (job: GenerationJob, kind: 'msg' | 'fc' | 'rs', index: number): string =>
  `${kind}-${job.requestId.slice(job.requestId.indexOf('-') + 1)}-${index}`

/** An item that is being streamed. */
interface OpenItem {
  readonly outputIndex: number
  readonly id: string
  readonly call: { readonly id: string; readonly name: string; readonly index: number } | null
  readonly isThought: boolean
  text: string
}

/** The output items and numbered events of one response. Items follow each other; each is opened, filled and closed. */
class ResponseStream {
  readonly items: ReturnType<typeof itemOf>[] = []
  readonly #job: GenerationJob
  readonly #body: ResponsesRequest
  #sequence = 0
  #open: OpenItem | null = null

  constructor(job: GenerationJob, body: ResponsesRequest) {
    this.#job = job
    this.#body = body
  }

  event(type: string, fields: object): string {
    return `event: ${type}\n${dataFrame({ type, sequence_number: this.#sequence++, ...fields })}`
  }

  /** An event with the response so far, which may be large because of the request's tools and instructions. */
  *whole(type: string, response: ResponseObject): Generator<string, void, void> {
    yield `event: ${type}\n`
    yield* dataFramePieces({ type, sequence_number: this.#sequence++, response })
  }

  *opening(): Generator<string, void, void> {
    const response = started(this.#job, this.#body)
    yield* this.whole('response.created', response)
    yield* this.whole('response.in_progress', response)
  }

  token({ text, reasoning = '', toolCalls }: Pick<TokenEvent, 'text' | 'reasoning' | 'toolCalls'>): string {
    let frames = reasoning === '' ? '' : this.#thought(reasoning)
    if (text !== '') frames += this.#text(text)
    for (const delta of toolCalls ?? []) {
      if (delta.id !== null) {
        frames += this.#close('completed')
        frames += this.#openItem({ id: delta.id, name: delta.name ?? '', index: delta.index })
      }
      frames += this.#arguments(delta.arguments)
    }
    return frames
  }

  /** Adds a whole choice. Its items are the same as those of a stream. */
  add(choice: ChoiceResult | undefined): void {
    if (choice === undefined) return
    const { text, reasoning, calls, finished } = choice
    this.token({ text, reasoning, toolCalls: calls.map((call, index) => ({ ...call, index })) })
    this.finished({ reason: finished?.reason ?? 'stop' })
  }

  finished({ reason }: Pick<ChoiceFinishedEvent, 'reason'>): string {
    // An empty answer is still a message.
    const empty = this.#open === null && this.items.length === 0 ? this.#openItem(null) : ''
    return empty + this.#close(reason === 'length' ? 'incomplete' : 'completed')
  }

  *error(error: ApiError): Generator<string, void, void> {
    const { message, code, param } = toErrorBody(error).error
    const failed: ResponseObject = {
      ...started(this.#job, this.#body),
      status: 'failed',
      error: { code: code ?? 'server_error', message },
      output: this.items,
    }
    yield this.event('error', { code, message, param })
    yield* this.whole('response.failed', failed)
  }

  #thought(delta: string): string {
    let frames = ''
    if (this.#open?.isThought !== true) frames = this.#close('completed') + this.#openItem(null, true)
    const open = this.#open
    if (open === null) return frames
    open.text += delta
    return frames + this.event('response.reasoning_text.delta', { ...place(open), content_index: 0, delta })
  }

  #text(delta: string): string {
    let frames = ''
    if (this.#open === null || this.#open.call !== null || this.#open.isThought)
      frames = this.#close('completed') + this.#openItem(null)
    const open = this.#open
    if (open === null) return frames
    open.text += delta
    return frames + this.event('response.output_text.delta', { ...place(open), content_index: 0, delta, logprobs: [] })
  }

  #arguments(delta: string): string {
    const open = this.#open
    if (delta === '' || open === null || open.call === null) return ''
    open.text += delta
    return this.event('response.function_call_arguments.delta', { ...place(open), delta })
  }

  #openItem(call: OpenItem['call'], isThought = false): string {
    const outputIndex = this.items.length
    const id = itemId(this.#job, isThought ? 'rs' : call === null ? 'msg' : 'fc', outputIndex)
    const open: OpenItem = { outputIndex, id, call, isThought, text: '' }
    this.#open = open
    const item = itemOf(open, 'in_progress', true)
    const added = this.event('response.output_item.added', { output_index: outputIndex, item })
    if (call !== null || isThought) return added
    return added + this.event('response.content_part.added', { ...place(open), content_index: 0, part: outputText('') })
  }

  #close(status: 'completed' | 'incomplete'): string {
    const open = this.#open
    if (open === null) return ''
    this.#open = null
    const item = itemOf(open, status)
    this.items.push(item)
    const done = () => this.event('response.output_item.done', { output_index: open.outputIndex, item })
    if (open.call !== null) {
      const fields = { ...place(open), name: open.call.name, arguments: open.text }
      return this.event('response.function_call_arguments.done', fields) + done()
    }
    const fields = { ...place(open), content_index: 0 }
    if (open.isThought) return this.event('response.reasoning_text.done', { ...fields, text: open.text }) + done()
    return (
      this.event('response.output_text.done', { ...fields, text: open.text, logprobs: [] }) +
      this.event('response.content_part.done', { ...fields, part: outputText(open.text) }) +
      done()
    )
  }
}

const place = ({ id, outputIndex }: OpenItem) => ({ item_id: id, output_index: outputIndex })

/** An output item: a call, reasoning or a message. `isEmpty`: it has just been opened. */
function itemOf(
  { id, call, isThought, text }: OpenItem,
  status: 'in_progress' | 'completed' | 'incomplete',
  isEmpty = false,
) {
  if (call !== null)
    return { type: 'function_call' as const, id, status, call_id: call.id, name: call.name, arguments: text }
  if (isThought) {
    const content = isEmpty ? [] : [{ type: 'reasoning_text' as const, text }]
    return { type: 'reasoning' as const, id, status, summary: [] as never[], content }
  }
  const content = isEmpty ? [] : [outputText(text)]
  return { type: 'message' as const, id, status, role: 'assistant' as const, content }
}
