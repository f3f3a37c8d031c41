/**
 * Measured step times on this machine: the time of a step by its number of rows, and the time of a prompt token in a step. Moving averages follow
 * changes in the machine's load and in the length of contexts.
 */

/** Weight of a new measurement. */
const WEIGHT = 0.25
/** Steps after which a measurement expires. A count that was slow may be fast now, and only trying it again shows. */
const MAX_AGE = 2000
/** Row counts that are measured separately. The largest stands for all above it. */
const MAX_ROWS = 64
/** Least prompt tokens of a step. Steps with fewer say too little about the time of a token. */
const MIN_PREFILL_TOKENS = 8
/** A delay of a token that nobody notices. Shorter prefill pieces would waste a fast device. */
const LEAST_PREFILL_MS = 10
/** Least prefill time in a step, as a share of the time of its decode rows. */
const LEAST_PREFILL_SHARE = 0.25
/** The same where more waits than so many steps' decode rows take: a long prompt that got less would wait for too long. */
const BACKLOG_SHARE = 0.5
const BACKLOG_STEPS = 2
/** By how much a step with prompts may take longer than one will take once those prompts decode as well: streams will be that slow anyway. */
const PREFILL_STRETCH = 1.15

/** Prompts that the next steps will compute. */
export interface PromptBacklog {
  readonly numPrompts: number
  /** Of them together, those that are not computed yet. */
  readonly numTokens: number
}

interface Measurement {
  ms: number
  atStep: number
}

/** Expected step times in milliseconds, from measured steps. */
export class StepTimes {
  readonly #byRows: (Measurement | undefined)[] = []
  #prefillTokenMs: number | null = null
  #numSteps = 0

  /** Records the duration of a step. */
  record(numDecodeRows: number, numPrefillTokens: number, ms: number): void {
    this.#numSteps++
    if (numPrefillTokens === 0) {
      this.#recordDecode(Math.min(numDecodeRows, MAX_ROWS), ms)
      return
    }
    if (numPrefillTokens < MIN_PREFILL_TOKENS) return
    const decodeMs = numDecodeRows === 0 ? 0 : (this.stepMs(numDecodeRows) ?? 0)
    const tokenMs = Math.max(0, ms - decodeMs) / numPrefillTokens
    this.#prefillTokenMs = average(this.#prefillTokenMs, tokenMs)
  }

  /** Milliseconds of a decode step with this many rows, interpolated between measurements; null before the first one. */
  stepMs(numRows: number): number | null {
    const rows = Math.min(numRows, MAX_ROWS)
    let below = rows
    while (below > 0 && this.#known(below) === null) below--
    let above = rows
    while (above <= MAX_ROWS && this.#known(above) === null) above++
    const low = this.#known(below)
    const high = this.#known(above)
    if (low === null) return high
    // More rows are assumed to cost nothing until they have been tried.
    if (high === null || above === below) return low
    return low + ((high - low) * (rows - below)) / (above - below)
  }

  /**
   * The number of drafts, up to `most`, that is worth verifying in a step of `numRows` sequences. Each is accepted with probability `acceptance` if
   * those before it are, and an accepted token saves the sequence's share of a step. Before the first measurement: all.
   */
  numWorthwhileDrafts(numRows: number, acceptance: number, most: number): number {
    const stepMs = this.stepMs(numRows)
    if (stepMs === null) return most
    let best = 0
    let bestGainMs = 0
    let numAccepted = 0
    for (let i = 1; i <= most; i++) {
      numAccepted += acceptance ** i
      const costMs = (this.stepMs(numRows + i) ?? stepMs) - stepMs
      const gainMs = (numAccepted * stepMs) / numRows - costMs
      if (gainMs < bestGainMs) continue
      best = i
      bestGainMs = gainMs
    }
    return best
  }

  /**
   * The prompt tokens that a step may compute beside `numDecodeRows`. If few streams decode, they will become slower anyway once all prompts decode, so
   * the step may already take about as long. Beyond that, prompts get their share of the time, at most that of the decode rows, so that no token takes
   * more than twice as long; and at most `mostMs`. Infinity before the first measurement.
   */
  maxPrefillTokens(numDecodeRows: number, { numPrompts, numTokens }: PromptBacklog, mostMs: number): number {
    const tokenMs = this.#prefillTokenMs
    if (tokenMs === null || tokenMs === 0) return Infinity
    const decodeMs = this.stepMs(numDecodeRows)
    if (decodeMs === null) return Math.max(MIN_PREFILL_TOKENS, Math.floor(mostMs / tokenMs))
    const isLong = numTokens * tokenMs > BACKLOG_STEPS * decodeMs
    const least = isLong ? BACKLOG_SHARE : LEAST_PREFILL_SHARE
    const shareMs = decodeMs * Math.min(1, Math.max(least, numPrompts / numDecodeRows))
    const aheadMs = (this.stepMs(numDecodeRows + numPrompts) ?? decodeMs) * PREFILL_STRETCH - decodeMs
    const ms = Math.min(mostMs, Math.max(LEAST_PREFILL_MS, shareMs, aheadMs))
    return Math.max(MIN_PREFILL_TOKENS, Math.floor(ms / tokenMs))
  }

  #recordDecode(rows: number, ms: number): void {
    this.#byRows[rows] = { ms: average(this.#known(rows), ms), atStep: this.#numSteps }
  }

  #known(rows: number): number | null {
    const measured = this.#byRows[rows]
    return measured === undefined || this.#numSteps - measured.atStep > MAX_AGE ? null : measured.ms
  }
}

function average(before: number | null, value: number): number {
  return before === null ? value : before + (value - before) * WEIGHT
}
