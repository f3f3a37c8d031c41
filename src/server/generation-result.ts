/** The result of a generation, collected from its events, with usage and timings. */
import type { ChoiceFinishedEvent, ChoiceLogprob, GenerationEvent, ToolCallDelta } from '../engine/request.ts'
import { type RequestSummary, summarize } from '../engine/summary.ts'
import type { Citations } from '../rag/service.ts'
import type { GenerationJob } from './job.ts'

/** A function call, joined from its pieces. */
export interface Call {
  readonly id: string
  readonly name: string
  arguments: string
}

export interface ChoiceResult {
  text: string
  /** The reasoning before the text. */
  reasoning: string
  readonly calls: Call[]
  /** Set even if the calls themselves are not kept. */
  hasCalls: boolean
  readonly tokenIds: number[]
  readonly logprobs: ChoiceLogprob[]
  finished: ChoiceFinishedEvent | null
}

/** The result of a generation so far. */
export class GenerationResult {
  readonly choices: ChoiceResult[]
  readonly promptTokens: number[]
  readonly promptIds: (readonly number[] | null)[]
  readonly promptLogprobs: (readonly (ChoiceLogprob | null)[])[] = []
  readonly #job: GenerationJob

  constructor(job: GenerationJob) {
    this.#job = job
    const numPrompts = job.generation.prompts.length
    this.choices = Array.from({ length: numPrompts * job.generation.n }, () => ({
      text: '',
      reasoning: '',
      calls: [],
      hasCalls: false,
      tokenIds: [],
      logprobs: [],
      finished: null,
    }))
    this.promptTokens = Array.from({ length: numPrompts }, () => 0)
    this.promptIds = Array.from({ length: numPrompts }, () => null)
  }

  /** Adds an event. Without `keepText` (streams) only counts are kept. */
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
        choice.reasoning += event.reasoning ?? ''
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

  /** The choices that the response shows, grouped by prompt. With best_of these are the ones with the best mean log-probability. */
  get shown(): readonly ChoiceResult[] {
    const job = this.#job
    const { n } = job.generation
    if (n === job.shown.choices) return this.choices
    return job.generation.prompts.flatMap((_, i) =>
      this.choices
        .slice(i * n, (i + 1) * n)
        .toSorted((a, b) => meanLogprob(b) - meanLogprob(a))
        .slice(0, job.shown.choices),
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

  /** The sum over the choices that have ended. */
  get summary(): RequestSummary {
    return summarize(this.finished, this.#job.generation.n)
  }

  usage() {
    const { tokensOut, cacheHits, reasoningTokens } = this.summary
    return {
      prompt_tokens: this.numPromptTokens,
      completion_tokens: tokensOut,
      total_tokens: this.numPromptTokens + tokensOut,
      prompt_tokens_details: { cached_tokens: cacheHits },
      ...(reasoningTokens === 0 ? {} : { completion_tokens_details: { reasoning_tokens: reasoningTokens } }),
    }
  }

  timings() {
    const { durationsMs, ttftSeconds, tokensPerSecond } = this.summary
    const phase = (name: string) => round(Math.max(durationsMs[name] ?? 0, 0))
    return {
      grammar_ms: phase('grammar'),
      queue_ms: phase('queue'),
      prefill_ms: phase('llm.prefill'),
      decode_ms: phase('llm.decode'),
      ttft_ms: round((ttftSeconds ?? 0) * 1000),
      tokens_per_second: round(tokensPerSecond),
    }
  }
}

/** The mean log-probability of a choice's tokens; -Infinity for a choice without tokens. */
function meanLogprob({ logprobs }: ChoiceResult): number {
  if (logprobs.length === 0) return -Infinity
  return logprobs.reduce((sum, { detail }) => sum + Math.max(detail.logprob, -9999), 0) / logprobs.length
}

function addCall(calls: Call[], { index, id, name, arguments: more }: ToolCallDelta): void {
  const call = (calls[index] ??= { id: id ?? '', name: name ?? '', arguments: '' })
  call.arguments += more
}

const round = (value: number): number => Math.round(value * 1000) / 1000

/** The fields of a response besides its choices. */
export type Tail = Readonly<Record<string, unknown>>

/** The last part of an answer: usage, timings and sources. */
export function tailOf(result: GenerationResult, citations: Citations | null): Tail {
  return { usage: result.usage(), timings: result.timings(), ...(citations ? { rag: citations } : {}) }
}

/** OpenAI's finish_reason of a choice. An aborted choice is `abort`, as in vLLM. */
export function finishReason({ finished, hasCalls }: Pick<ChoiceResult, 'finished' | 'hasCalls'>): string | null {
  return finished?.reason === 'stop' && hasCalls ? 'tool_calls' : (finished?.reason ?? null)
}
