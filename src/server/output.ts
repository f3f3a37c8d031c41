/** From generation events to OpenAI's response bodies and chunks. Two shapes (completion, chat), one aggregation. */
import type {
  ChoiceFinishedEvent,
  ChoiceLogprob,
  GenerationEvent,
  PromptLogprobsEvent,
  TokenEvent,
} from '../engine/request.ts'
import type { GenerationJob } from './job.ts'
import { dataFrame } from './sse.ts'

/** A retrieved document as the response names it; `text` stays in the prompt. */
export interface CitedDocument {
  readonly id: string
  readonly chunk: number
  readonly source: string | null
  readonly score: number
  readonly rank: number
}

export interface Citations {
  readonly index: string
  readonly documents: readonly CitedDocument[]
}

interface Choice {
  text: string
  readonly tokenIds: number[]
  readonly logprobs: ChoiceLogprob[]
  finished: ChoiceFinishedEvent | null
}

/** Everything a generation produced so far, and the numbers around it. */
export class GenerationResult {
  readonly choices: Choice[]
  readonly promptTokens: number[]
  readonly promptIds: (readonly number[] | null)[]
  readonly promptLogprobs: (readonly (ChoiceLogprob | null)[])[] = []
  private readonly job: GenerationJob

  constructor(job: GenerationJob) {
    this.job = job
    const numPrompts = job.generation.prompts.length
    this.choices = Array.from({ length: numPrompts * job.generation.n }, () => ({
      text: '',
      tokenIds: [],
      logprobs: [],
      finished: null,
    }))
    this.promptTokens = Array.from({ length: numPrompts }, () => 0)
    this.promptIds = Array.from({ length: numPrompts }, () => null)
  }

  /** Takes an event in. `keepText` false (streams) keeps only the counts. */
  add(event: GenerationEvent, keepText: boolean): void {
    switch (event.type) {
      case 'prompt':
        this.promptTokens[event.promptIndex] = event.numTokens
        this.promptIds[event.promptIndex] = event.tokenIds
        return
      case 'promptLogprobs':
        this.promptLogprobs[event.promptIndex] = event.entries
        return
      case 'token': {
        const choice = this.choices[event.choice]
        if (!choice || !keepText) return
        choice.text += event.text
        choice.tokenIds.push(...event.tokenIds)
        if (event.logprobs) choice.logprobs.push(...event.logprobs)
        return
      }
      case 'finished': {
        const choice = this.choices[event.choice]
        if (choice) choice.finished = event
      }
    }
  }

  get finished(): readonly ChoiceFinishedEvent[] {
    return this.choices.flatMap((choice) => choice.finished ?? [])
  }

  get isComplete(): boolean {
    return this.finished.length === this.choices.length
  }

  get finishReasons(): readonly string[] {
    return this.finished.map((event) => event.reason)
  }

  get numPromptTokens(): number {
    return this.promptTokens.reduce((sum, count) => sum + count, 0)
  }

  get numGeneratedTokens(): number {
    return this.finished.reduce((sum, event) => sum + event.counters.numGeneratedTokens, 0)
  }

  /** Prompt tokens served from the prefix cache. A prompt counts once whatever `n`: as its first choice found it. */
  get numCachedTokens(): number {
    const { n } = this.job.generation
    return this.choices.reduce(
      (sum, choice, i) => sum + (i % n === 0 ? (choice.finished?.counters.numCachedTokens ?? 0) : 0),
      0,
    )
  }

  usage() {
    return {
      prompt_tokens: this.numPromptTokens,
      completion_tokens: this.numGeneratedTokens,
      total_tokens: this.numPromptTokens + this.numGeneratedTokens,
      prompt_tokens_details: { cached_tokens: this.numCachedTokens },
    }
  }

  /** Seconds from the arrival at the engine to the first token, or null when there was none. */
  get timeToFirstTokenSeconds(): number | null {
    const times = this.span()
    return times.firstToken === null ? null : (times.firstToken - times.arrived) / 1000
  }

  timings() {
    const { arrived, scheduled, firstToken, lastToken } = this.span()
    const between = (from: number | null, to: number | null) =>
      from === null || to === null ? 0 : round(Math.max(to - from, 0))
    const decodeMs = between(firstToken, lastToken)
    const tokens = this.finished.reduce((sum, event) => sum + event.counters.decodeSteps, 0)
    return {
      queue_ms: between(arrived, scheduled),
      prefill_ms: between(scheduled, firstToken),
      decode_ms: decodeMs,
      ttft_ms: between(arrived, firstToken),
      tokens_per_second: decodeMs > 0 ? round((tokens * 1000) / decodeMs) : 0,
    }
  }

  /** The request's phases over all choices: earliest starts, latest end. performance.now() milliseconds. */
  private span() {
    const counters = this.finished.map((event) => event.counters)
    const least = (values: readonly (number | null)[]) => {
      const known = values.filter((value) => value !== null)
      return known.length === 0 ? null : Math.min(...known)
    }
    const last = counters.flatMap((c) => c.lastTokenMs ?? [])
    return {
      arrived: least(counters.map((c) => c.arrivedMs)) ?? 0,
      scheduled: least(counters.map((c) => c.firstScheduledMs)),
      firstToken: least(counters.map((c) => c.firstTokenMs)),
      lastToken: last.length === 0 ? null : Math.max(...last),
    }
  }
}

const round = (value: number): number => Math.round(value * 1000) / 1000

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

/** What a response carries besides its choices. */
export type Tail = Readonly<Record<string, unknown>>

export function tailOf(result: GenerationResult, citations: Citations | null): Tail {
  return { usage: result.usage(), timings: result.timings(), ...(citations ? { rag: citations } : {}) }
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
  const promptOf = (choice: number) => Math.floor(choice / job.generation.n)
  const offsets = new Map<number, number>()
  const choice = (index: number, text: string, logprobs: unknown, finishReason: string | null, more: object = {}) => ({
    index,
    text,
    logprobs,
    finish_reason: finishReason,
    ...more,
  })
  const wantsLogprobs = job.generation.logprobs >= 0
  const textFrame = textFrames((index, text) => ({ ...head, choices: [choice(index, text, null, null)] }))
  /** The prompt's own chunk, for each of its choices. */
  const echo = (promptIndex: number, entries: readonly (ChoiceLogprob | null)[] | null) => {
    const text = echoText.prompt(promptIndex)
    const logprobs = entries && legacyLogprobs(entries, job.generation.logprobs, 0, echoText.firstToken(promptIndex))
    return Array.from({ length: job.generation.n }, (_, i) => {
      const index = promptIndex * job.generation.n + i
      offsets.set(index, text.length)
      return { ...head, choices: [choice(index, text, logprobs, null)] }
    })
  }
  return {
    body: (result, citations) => ({
      ...head,
      choices: result.choices.map((c, index) => {
        const prefix = job.echo ? echoText.prompt(promptOf(index)) : ''
        const prompt = job.echo ? (result.promptLogprobs[promptOf(index)] ?? []) : []
        return choice(
          index,
          prefix + c.text,
          wantsLogprobs
            ? legacyLogprobs(
                [...prompt, ...c.logprobs],
                job.generation.logprobs,
                0,
                job.echo ? echoText.firstToken(promptOf(index)) : '',
              )
            : null,
          finishReason(c.finished),
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
      const logprobs =
        wantsLogprobs && event.logprobs ? legacyLogprobs(event.logprobs, job.generation.logprobs, offset) : null
      const more = job.returnTokenIds ? { token_ids: event.tokenIds } : {}
      return dataFrame({ ...head, choices: [choice(event.choice, event.text, logprobs, null, more)] })
    },
    finished: (event, tail) => ({
      ...head,
      choices: [choice(event.choice, '', null, finishReason(event), { stop_reason: event.stopReason })],
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
  const wantsLogprobs = job.generation.logprobs >= 0
  const textFrame = textFrames((index, text) => chunk(index, { content: text }))
  return {
    body: (result, citations) => ({
      ...head,
      object: 'chat.completion',
      choices: result.choices.map((c, index) => ({
        index,
        message: { role: 'assistant', content: c.text, refusal: null },
        logprobs: wantsLogprobs ? content(c.logprobs) : null,
        finish_reason: finishReason(c.finished),
        stop_reason: c.finished?.stopReason ?? null,
        ...(job.returnTokenIds ? { token_ids: c.tokenIds, prompt_token_ids: result.promptIds[0] } : {}),
      })),
      ...tailOf(result, citations),
    }),
    opening: () =>
      Array.from({ length: job.generation.n }, (_, index) => chunk(index, { role: 'assistant', content: '' })),
    echo: () => [],
    tokenFrame: (event) => {
      if (!wantsLogprobs && !job.returnTokenIds) return event.text === '' ? '' : textFrame(event)
      if (event.text === '' && !event.logprobs?.length && !(job.returnTokenIds && event.tokenIds.length > 0)) return ''
      const more = {
        ...(wantsLogprobs && event.logprobs ? { logprobs: content(event.logprobs) } : {}),
        ...(job.returnTokenIds ? { token_ids: event.tokenIds } : {}),
      }
      return dataFrame(chunk(event.choice, { content: event.text }, more))
    },
    finished: (event, tail) => ({
      ...chunk(event.choice, {}, { finish_reason: finishReason(event), stop_reason: event.stopReason }),
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

/** OpenAI's words for how a choice ended: an aborted one is `abort` as in vLLM. */
const finishReason = (event: ChoiceFinishedEvent | null): string | null => event?.reason ?? null

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
