/** From generation events to OpenAI's response bodies and chunks. Two shapes: completion and chat. */
import type {
  ChoiceFinishedEvent,
  ChoiceLogprob,
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
import { dataFrame } from './sse.ts'

/** How one route says what was generated. */
export interface Shape {
  body(result: GenerationResult, citations: Citations | null): unknown
  /** Chunks before the first event. */
  opening(): unknown[]
  /** Chunks that give a prompt back with its log-probabilities. */
  echo(event: PromptLogprobsEvent): unknown[]
  /** The frame of a token event's chunk, or '' when it has nothing to say. */
  tokenFrame(event: TokenEvent): string
  /** The chunk that ends a choice. `tail` goes into the stream's last chunk. */
  finished(event: ChoiceFinishedEvent, tail: Tail | null): unknown
  /** The chunk after all choices, when include_usage asked for one. */
  usage(tail: Tail): unknown
}

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
      return { ...head, choices: [choice(index, text, logprobs, null)] }
    })
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
      job.echo && !wantsLogprobs ? job.generation.prompts.flatMap((_, promptIndex) => echo(promptIndex, null)) : [],
    echo: (event) => (job.echo ? echo(event.promptIndex, event.entries) : []),
    tokenFrame: (event) => {
      if (!wantsLogprobs && !job.returnTokenIds) return event.text === '' ? '' : textFrame(event)
      if (event.text === '' && !event.logprobs?.length && !(job.returnTokenIds && event.tokenIds.length > 0)) return ''
      const offset = offsets.get(event.choice) ?? 0
      offsets.set(event.choice, offset + event.text.length)
      const logprobs = wantsLogprobs && event.logprobs ? legacyLogprobs(event.logprobs, job.logprobs, offset) : null
      const more = job.returnTokenIds ? { token_ids: event.tokenIds } : {}
      return dataFrame({ ...head, choices: [choice(event.choice, event.text, logprobs, null, more)] })
    },
    finished: (event, tail) => ({
      ...head,
      choices: [choice(event.choice, '', null, event.reason, { stop_reason: event.stopReason })],
      ...tail,
    }),
    usage: (tail) => ({ ...head, choices: [], ...tail }),
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
    opening: () => Array.from({ length: job.n }, (_, index) => chunk(index, { role: 'assistant', content: '' })),
    echo: () => [],
    tokenFrame: (event) => {
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
    finished: (event, tail) => ({
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
    usage: (tail) => ({ ...head, object: 'chat.completion.chunk', choices: [], ...tail }),
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
