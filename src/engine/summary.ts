/** Sums up a request over all its sequences: the numbers in usage, timings, llm.prefill and llm.decode. */
import type { CacheMissReason, FinishReason, SequenceCounters, StopKind } from './events.ts'

export interface RequestSummary {
  readonly tokensIn: number
  readonly tokensOut: number
  readonly reasoningTokens: number
  readonly cacheHits: number
  readonly cacheMisses: number
  readonly missReason: CacheMissReason
  readonly numChoices: number
  readonly queueMicros: number
  readonly prefillChunks: number
  readonly recomputedTokens: number
  readonly numPreemptions: number
  readonly decodeSteps: number
  /** Durations of the decode steps, sequence by sequence. */
  readonly stepMicros: readonly number[]
  readonly meanRows: number
  readonly stopReason: StopReason
  /** What made the choices stop, if it was the same for all that stopped; else null. */
  readonly stop: StopKind | null
  readonly finishReasons: readonly FinishReason[]
  readonly arrivedMs: number
  readonly firstScheduledMs: number | null
  readonly firstTokenMs: number | null
  readonly lastTokenMs: number | null
  /** Time of the first token; for a request that only scores its prompts, when the last prompt was computed. */
  readonly prefillEndMs: number | null
  readonly ttftSeconds: number | null
  /** Tokens after each sequence's first, accepted drafts included, divided by the time from the first token to the last; 0 if there are none. */
  readonly tokensPerSecond: number
  readonly prefillGpuMicros: number | null
  readonly prefillGpuShareMicros: number | null
  readonly decodeGpuMicros: number | null
  readonly decodeGpuShareMicros: number | null
  readonly numDraftTokens: number
  readonly numAcceptedTokens: number
  /** By Server-Timing name. */
  readonly durationsMs: Readonly<Record<string, number>>
}

/** One sequence that ended. */
export interface EndedSequence {
  readonly choice: number
  readonly reason: FinishReason
  /** What made it stop; absent: unknown. */
  readonly stop?: StopKind | null
  readonly counters: SequenceCounters
}

/**
 * Sums up the sequences of a request. A prompt's tokens count once, for its first choice, whatever `n`. Times are the earliest arrival, first step
 * and first token, and the latest last token and scored prompt.
 */
export function summarize(sequences: readonly EndedSequence[], n: number): RequestSummary {
  const ordered = [...sequences].sort((a, b) => a.choice - b.choice)
  const all = ordered.map((sequence) => sequence.counters)
  const prompts = ordered.filter((sequence) => sequence.choice % n === 0).map((sequence) => sequence.counters)
  const sum = (of: readonly SequenceCounters[], key: NumericKey) => of.reduce((total, c) => total + c[key], 0)
  const arrivedMs = least(all.map((c) => c.arrivedMs)) ?? 0
  const firstScheduledMs = least(all.map((c) => c.firstScheduledMs))
  const firstTokenMs = least(all.map((c) => c.firstTokenMs))
  const lastTokenMs = greatest(all.map((c) => c.lastTokenMs))
  const prefillEndMs = firstTokenMs ?? greatest(all.map((c) => c.scoredMs))
  const decodeSteps = sum(all, 'decodeSteps')
  const decodeMs = firstTokenMs === null || lastTokenMs === null ? 0 : lastTokenMs - firstTokenMs
  const numLaterTokens = all.reduce((total, c) => total + Math.max(0, c.numGeneratedTokens - 1), 0)
  const durationsMs: Record<string, number> = {}
  const grammarMs = greatest(all.map((c) => c.grammarMs)) ?? 0
  if (grammarMs > 0) durationsMs.grammar = grammarMs
  const queueMs = firstScheduledMs === null ? null : Math.max(0, firstScheduledMs - arrivedMs - grammarMs)
  if (queueMs !== null) durationsMs.queue = queueMs
  if (firstScheduledMs !== null && prefillEndMs !== null) durationsMs['llm.prefill'] = prefillEndMs - firstScheduledMs
  if (firstTokenMs !== null && lastTokenMs !== null) durationsMs['llm.decode'] = decodeMs
  return {
    tokensIn: sum(prompts, 'numPromptTokens'),
    tokensOut: sum(all, 'numGeneratedTokens'),
    reasoningTokens: sum(all, 'numReasoningTokens'),
    cacheHits: sum(prompts, 'numCachedTokens'),
    cacheMisses: sum(prompts, 'numMissTokens'),
    missReason: prompts.find((c) => c.missReason !== 'none')?.missReason ?? 'none',
    numChoices: ordered.length,
    queueMicros: Math.round((queueMs ?? 0) * 1000),
    prefillChunks: sum(all, 'prefillChunks'),
    recomputedTokens: sum(all, 'numRecomputedTokens'),
    numPreemptions: sum(all, 'numPreemptions'),
    decodeSteps,
    stepMicros: all.length === 1 && all[0] ? all[0].decodeStepMicros : all.flatMap((c) => c.decodeStepMicros),
    meanRows: decodeSteps === 0 ? 0 : sum(all, 'decodeRowSum') / decodeSteps,
    stop: onlyOne(ordered.flatMap(({ stop }) => stop ?? [])),
    stopReason: overallReason(ordered.map((sequence) => sequence.reason)),
    finishReasons: ordered.map((sequence) => sequence.reason),
    arrivedMs,
    firstScheduledMs,
    firstTokenMs,
    lastTokenMs,
    prefillEndMs,
    tokensPerSecond: decodeMs > 0 ? (numLaterTokens * 1000) / decodeMs : 0,
    ttftSeconds: firstTokenMs === null ? null : Math.max(0, firstTokenMs - arrivedMs) / 1000,
    prefillGpuMicros: sumOrNull(all.map((c) => c.prefillGpuMicros)),
    prefillGpuShareMicros: sumOrNull(all.map((c) => c.prefillGpuShareMicros)),
    decodeGpuMicros: sumOrNull(all.map((c) => c.decodeGpuMicros)),
    decodeGpuShareMicros: sumOrNull(all.map((c) => c.decodeGpuShareMicros)),
    numDraftTokens: sum(all, 'numDraftTokens'),
    numAcceptedTokens: sum(all, 'numAcceptedTokens'),
    durationsMs,
  }
}

type NumericKey = {
  [K in keyof SequenceCounters]: SequenceCounters[K] extends number ? K : never
}[keyof SequenceCounters]

/** Values of llm.stop_reason. A remote engine's content filter counts as `stop`. */
type StopReason = Exclude<FinishReason, 'content_filter'>

/** The most important reason: error before abort before length before stop. */
function overallReason(reasons: readonly FinishReason[]): StopReason {
  return (['error', 'abort', 'length'] as const).find((reason) => reasons.includes(reason)) ?? 'stop'
}

/** The common value; null if the values differ, or there are none. */
const onlyOne = <T>(values: readonly T[]): T | null =>
  values[0] !== undefined && values.every((value) => value === values[0]) ? values[0] : null

const known = (values: readonly (number | null)[]) => values.filter((value) => value !== null)
const least = (values: readonly (number | null)[]) =>
  known(values).reduce<number | null>((a, b) => (a === null || b < a ? b : a), null)
const greatest = (values: readonly (number | null)[]) =>
  known(values).reduce<number | null>((a, b) => (a === null || b > a ? b : a), null)
const sumOrNull = (values: readonly (number | null)[]) => {
  const numbers = known(values)
  return numbers.length === 0 ? null : Math.round(numbers.reduce((a, b) => a + b, 0))
}
