/** What a generation produced: its events put together, and the numbers around it. */
import type { ChoiceFinishedEvent, ChoiceLogprob, GenerationEvent, ToolCallDelta } from '../engine/request.ts'
import type { GenerationJob } from './job.ts'

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

/** A function call as the response has it, put together from its pieces. */
export interface Call {
  readonly id: string
  readonly name: string
  arguments: string
}

export interface Choice {
  text: string
  readonly calls: Call[]
  /** Also where the calls themselves are not kept. */
  hasCalls: boolean
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
      calls: [],
      hasCalls: false,
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
        if (!choice) return
        choice.hasCalls ||= event.toolCalls !== undefined
        if (!keepText) return
        choice.text += event.text
        for (const delta of event.toolCalls ?? []) addCall(choice.calls, delta)
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

  /** The choices that the answer shows, those of each prompt together: of more than it asked for, the likeliest per token. */
  get shown(): readonly Choice[] {
    const { job } = this
    const { n } = job.generation
    if (n === job.n) return this.choices
    return job.generation.prompts.flatMap((_, i) =>
      this.choices
        .slice(i * n, (i + 1) * n)
        .toSorted((a, b) => meanLogprob(b) - meanLogprob(a))
        .slice(0, job.n),
    )
  }

  get finished(): readonly ChoiceFinishedEvent[] {
    return this.choices.flatMap((choice) => choice.finished ?? [])
  }

  get isComplete(): boolean {
    return this.finished.length === this.choices.length
  }

  get finishReasons(): readonly string[] {
    return this.shown.flatMap((choice) => finishReason(choice) ?? [])
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
    const { arrived, scheduled, prefilled, firstToken, lastToken } = this.span()
    const between = (from: number | null, to: number | null) =>
      from === null || to === null ? 0 : round(Math.max(to - from, 0))
    const decodeMs = between(firstToken, lastToken)
    const tokens = this.finished.reduce((sum, event) => sum + event.counters.decodeSteps, 0)
    return {
      queue_ms: between(arrived, scheduled),
      prefill_ms: between(scheduled, prefilled),
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
    const greatest = (values: readonly (number | null)[]) => {
      const known = values.filter((value) => value !== null)
      return known.length === 0 ? null : Math.max(...known)
    }
    const firstToken = least(counters.map((c) => c.firstTokenMs))
    return {
      arrived: least(counters.map((c) => c.arrivedMs)) ?? 0,
      scheduled: least(counters.map((c) => c.firstScheduledMs)),
      // A prompt that is only scored has no token to end its prefill.
      prefilled: firstToken ?? greatest(counters.map((c) => c.scoredMs)),
      firstToken,
      lastToken: greatest(counters.map((c) => c.lastTokenMs)),
    }
  }
}

/** An answer without tokens has none to be likely. */
function meanLogprob({ logprobs }: Choice): number {
  if (logprobs.length === 0) return -Infinity
  return logprobs.reduce((sum, { detail }) => sum + Math.max(detail.logprob, -9999), 0) / logprobs.length
}

function addCall(calls: Call[], { index, id, name, arguments: more }: ToolCallDelta): void {
  const call = (calls[index] ??= { id: id ?? '', name: name ?? '', arguments: '' })
  call.arguments += more
}

const round = (value: number): number => Math.round(value * 1000) / 1000

/** What a response carries besides its choices. */
export type Tail = Readonly<Record<string, unknown>>

export function tailOf(result: GenerationResult, citations: Citations | null): Tail {
  return { usage: result.usage(), timings: result.timings(), ...(citations ? { rag: citations } : {}) }
}

/** OpenAI's words for how a choice ended: an aborted one is `abort` as in vLLM. */
export function finishReason({ finished, hasCalls }: Pick<Choice, 'finished' | 'hasCalls'>): string | null {
  return finished?.reason === 'stop' && hasCalls ? 'tool_calls' : (finished?.reason ?? null)
}
