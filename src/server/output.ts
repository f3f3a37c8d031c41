/** From generation events to OpenAI's response bodies and chunks. Two shapes: completion and chat. */
import type {
  ChoiceFinishedEvent,
  ChoiceLogprob,
  PromptEvent,
  PromptLogprobsEvent,
  TokenEvent,
  ToolCallDelta,
} from '../engine/request.ts'
import {
  type Call,
  type Citations,
  finishReason,
  type GenerationResult,
  type Tail,
  tailOf,
} from './generation-result.ts'
import type { GenerationJob } from './job.ts'
import { type ApiError, toErrorBody } from './errors.ts'
import { dataFrame, DONE_FRAME } from './sse.ts'

/**
 * How the wire of one route says what was generated: as one body, or as the frames of a stream. A frame is server-sent text, whole events;
 * '' where the wire has nothing to say.
 */
export interface Shape {
  body(result: GenerationResult, citations: Citations | null): unknown
  /** Before the first event. */
  opening(): string
  /** A prompt was accepted. */
  prompt(event: PromptEvent): string
  /** A prompt given back with its log-probabilities. */
  echo(event: PromptLogprobsEvent): string
  token(event: TokenEvent): string
  /** The end of a choice. `tail` is there for the last one, unless the stream has a chunk for it. */
  finished(event: ChoiceFinishedEvent, tail: Tail | null): string
  /** After all choices. */
  closing(result: GenerationResult, citations: Citations | null): string
  error(error: ApiError): string
  /** The mark behind everything, also behind an error. */
  readonly done: string
}

/** What a validated body comes to: what to run, and how to say what came of it. */
export interface GenerationCall {
  readonly job: GenerationJob
  readonly shape: (echoText: EchoText) => Shape
}

/** The parts of OpenAI's older wires that are the same in both. */
const openAiStream = {
  prompt: () => '',
  error: (error: ApiError) => dataFrame(toErrorBody(error)),
  done: DONE_FRAME,
} as const

/** The texts of a prompt that `echo` gives back. */
export interface EchoText {
  prompt(promptIndex: number): string
  /** Its first token, which nothing comes before and which has no log-probability. */
  firstToken(promptIndex: number): string
}

/** /v1/completions. */
export function completionShape(job: GenerationJob, echoText: EchoText): Shape {
  const head = { id: job.requestId, object: 'text_completion', created: job.created, model: job.model }
  const promptOf = (choice: number) => Math.floor(choice / job.n)
  const offsets = new Map<number, number>()
  const choice = (index: number, text: string, logprobs: unknown, finishReason: string | null, more: object = {}) => ({
    index,
    text,
    logprobs,
    finish_reason: finishReason,
    ...more,
  })
  const wantsLogprobs = job.logprobs >= 0
  const textFrame = textFrames((index, text) => ({ ...head, choices: [choice(index, text, null, null)] }))
  /** The prompt's own chunk, for each of its choices. */
  const echo = (promptIndex: number, entries: readonly (ChoiceLogprob | null)[] | null) => {
    const text = echoText.prompt(promptIndex)
    const logprobs = entries && legacyLogprobs(entries, job.logprobs, 0, echoText.firstToken(promptIndex))
    return Array.from({ length: job.n }, (_, i) => {
      const index = promptIndex * job.n + i
      offsets.set(index, text.length)
      return dataFrame({ ...head, choices: [choice(index, text, logprobs, null)] })
    }).join('')
  }
  return {
    body: (result, citations) => ({
      ...head,
      choices: result.shown.map((c, index) => {
        const prefix = job.echo ? echoText.prompt(promptOf(index)) : ''
        const prompt = job.echo ? (result.promptLogprobs[promptOf(index)] ?? []) : []
        return choice(
          index,
          prefix + c.text,
          wantsLogprobs
            ? legacyLogprobs(
                [...prompt, ...c.logprobs],
                job.logprobs,
                0,
                job.echo ? echoText.firstToken(promptOf(index)) : '',
              )
            : null,
          finishReason(c),
          {
            stop_reason: c.finished?.stopReason ?? null,
            ...(job.returnTokenIds
              ? { token_ids: c.tokenIds, prompt_token_ids: result.promptIds[promptOf(index)] }
              : {}),
          },
        )
      }),
      ...tailOf(result, citations),
    }),
    opening: () =>
      job.echo && !wantsLogprobs
        ? job.generation.prompts.map((_, promptIndex) => echo(promptIndex, null)).join('')
        : '',
    echo: (event) => (job.echo ? echo(event.promptIndex, event.entries) : ''),
    token: (event) => {
      if (!wantsLogprobs && !job.returnTokenIds) return event.text === '' ? '' : textFrame(event)
      if (event.text === '' && !event.logprobs?.length && !(job.returnTokenIds && event.tokenIds.length > 0)) return ''
      const offset = offsets.get(event.choice) ?? 0
      offsets.set(event.choice, offset + event.text.length)
      const logprobs = wantsLogprobs && event.logprobs ? legacyLogprobs(event.logprobs, job.logprobs, offset) : null
      const more = job.returnTokenIds ? { token_ids: event.tokenIds } : {}
      return dataFrame({ ...head, choices: [choice(event.choice, event.text, logprobs, null, more)] })
    },
    finished: (event, tail) =>
      dataFrame({
        ...head,
        choices: [choice(event.choice, '', null, event.reason, { stop_reason: event.stopReason })],
        ...tail,
      }),
    closing: (result, citations) =>
      job.includeUsage ? dataFrame({ ...head, choices: [], ...tailOf(result, citations) }) : '',
    ...openAiStream,
  }
}

/** /v1/chat/completions. */
export function chatShape(job: GenerationJob): Shape {
  const head = { id: job.requestId, created: job.created, model: job.model }
  const chunk = (index: number, delta: object, more: object = {}) => ({
    ...head,
    object: 'chat.completion.chunk',
    choices: [{ index, delta, logprobs: null, finish_reason: null, ...more }],
  })
  const content = (entries: readonly ChoiceLogprob[]) => ({ content: entries.map(chatLogprob), refusal: null })
  const wantsLogprobs = job.logprobs >= 0
  const textFrame = textFrames((index, text) => chunk(index, { content: text }))
  const callers = new Set<number>()
  return {
    body: (result, citations) => ({
      ...head,
      object: 'chat.completion',
      choices: result.shown.map((c, index) => ({
        index,
        message: {
          role: 'assistant',
          content: c.text === '' && c.hasCalls ? null : c.text,
          refusal: null,
          ...(c.hasCalls ? { tool_calls: c.calls.map(wireCall) } : {}),
        },
        logprobs: wantsLogprobs ? content(c.logprobs) : null,
        finish_reason: finishReason(c),
        stop_reason: c.finished?.stopReason ?? null,
        ...(job.returnTokenIds ? { token_ids: c.tokenIds, prompt_token_ids: result.promptIds[0] } : {}),
      })),
      ...tailOf(result, citations),
    }),
    opening: () =>
      Array.from({ length: job.n }, (_, index) => dataFrame(chunk(index, { role: 'assistant', content: '' }))).join(''),
    echo: () => '',
    token: (event) => {
      const { toolCalls } = event
      if (toolCalls === undefined) {
        if (!wantsLogprobs && !job.returnTokenIds) return event.text === '' ? '' : textFrame(event)
        if (event.text === '' && !event.logprobs?.length && !(job.returnTokenIds && event.tokenIds.length > 0))
          return ''
      } else callers.add(event.choice)
      const delta = {
        ...(event.text === '' && toolCalls !== undefined ? {} : { content: event.text }),
        ...(toolCalls === undefined ? {} : { tool_calls: toolCalls.map(wireDelta) }),
      }
      const more = {
        ...(wantsLogprobs && event.logprobs ? { logprobs: content(event.logprobs) } : {}),
        ...(job.returnTokenIds ? { token_ids: event.tokenIds } : {}),
      }
      return dataFrame(chunk(event.choice, delta, more))
    },
    finished: (event, tail) =>
      dataFrame({
        ...chunk(
          event.choice,
          {},
          {
            finish_reason: finishReason({ finished: event, hasCalls: callers.has(event.choice) }),
            stop_reason: event.stopReason,
          },
        ),
        ...tail,
      }),
    closing: (result, citations) =>
      job.includeUsage
        ? dataFrame({ ...head, object: 'chat.completion.chunk', choices: [], ...tailOf(result, citations) })
        : '',
    ...openAiStream,
  }
}

/** No text a model writes is serialised to this. */
const TEXT_MARK = '\u0000text\u0000'

/** Frames of chunks that differ in their text alone: what stands around it is serialised once a choice. */
function textFrames(chunkOf: (choice: number, text: string) => unknown): (event: TokenEvent) => string {
  const around: (readonly [before: string, after: string] | undefined)[] = []
  return ({ choice, text }) => {
    const [before, after] = (around[choice] ??= cutAt(JSON.stringify(TEXT_MARK), dataFrame(chunkOf(choice, TEXT_MARK))))
    return before + JSON.stringify(text) + after
  }
}

function cutAt(mark: string, frame: string): readonly [before: string, after: string] {
  const at = frame.indexOf(mark)
  return [frame.slice(0, at), frame.slice(at + mark.length)]
}

const wireCall = ({ id, name, arguments: args }: Call) => ({
  id,
  type: 'function',
  function: { name, arguments: args },
})

/** Id, type and name come with a call's first piece. */
const wireDelta = ({ index, id, name, arguments: args }: ToolCallDelta) =>
  id === null
    ? { index, function: { arguments: args } }
    : { index, id, type: 'function', function: { name, arguments: args } }

function legacyLogprobs(entries: readonly (ChoiceLogprob | null)[], top: number, start: number, firstToken = '') {
  const tokens = entries.map((entry) => entry?.token ?? firstToken)
  const offsets: number[] = []
  let offset = start
  for (const token of tokens) {
    offsets.push(offset)
    offset += token.length
  }
  return {
    tokens,
    token_logprobs: entries.map((entry) => finite(entry?.detail.logprob ?? null)),
    top_logprobs:
      top === 0
        ? null
        : entries.map(
            (entry) => entry && Object.fromEntries(entry.top.map(({ token, logprob }) => [token, finite(logprob)])),
          ),
    text_offset: offsets,
  }
}

const chatLogprob = (entry: ChoiceLogprob) => ({
  token: entry.token,
  logprob: finite(entry.detail.logprob),
  bytes: entry.bytes,
  top_logprobs: entry.top.map(({ token, logprob, bytes }) => ({ token, logprob: finite(logprob), bytes })),
})

/** JSON has no -Infinity; OpenAI's stand-in for "impossible" is -9999. */
const finite = (value: number | null): number | null => (value === null || Number.isFinite(value) ? value : -9999)
