/**
 * What steps cost on this machine, as measured: the time of a step by its number of rows, and of a prompt token beside them. Moving averages, so
 * that a machine that is busy with something else, and a context that grows, are followed.
 */

/** Weight of a new measurement. */
const WEIGHT = 0.25
/** Steps after which a measurement no longer counts: what was slow then may be fast now, and is only found out by trying. */
const MAX_AGE = 2000
/** Row counts measured apart; beyond, the largest stands for all. */
const MAX_ROWS = 64
/** Prompt tokens of a step from which it says something of a token's time; it gets no fewer. */
const MIN_PREFILL_TOKENS = 8
/** Nobody sees a token that comes so much later; shorter pieces would waste a fast device. */
const LEAST_PREFILL_MS = 10
/** Of the time of a step's decode rows: what prompts get at least. */
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

  /** A step of decode rows and prompt tokens took `ms`. */
  record(numDecodeRows: number, numPrefillTokens: number, ms: number): void {
    this.#numSteps++
    if (numPrefillTokens === 0) {
      this.#recordDecode(Math.min(numDecodeRows, MAX_ROWS), ms)
      return
    }
    if (numPrefillTokens < MIN_PREFILL_TOKENS) return
    const decodeMs = numDecodeRows === 0 ? 0 : (this.ofRows(numDecodeRows) ?? 0)
    const tokenMs = Math.max(0, ms - decodeMs) / numPrefillTokens
    this.#prefillTokenMs = average(this.#prefillTokenMs, tokenMs)
  }

  /** Milliseconds of a decode step of so many rows: between what was measured above and below; null before anything was. */
  ofRows(numRows: number): number | null {
    const rows = Math.min(numRows, MAX_ROWS)
    let below = rows
    while (below > 0 && this.#known(below) === null) below--
    let above = rows
    while (above <= MAX_ROWS && this.#known(above) === null) above++
    const low = this.#known(below)
    const high = this.#known(above)
    if (low === null) return high
    // More rows are thought to cost nothing until they were tried.
    if (high === null || above === below) return low
    return low + ((high - low) * (rows - below)) / (above - below)
  }

  /**
   * Drafts, of at most `most`, that are worth verifying in a step of `numRows` sequences: each is accepted with probability `acceptance` where those before
   * it are, and a token is worth a sequence's share of a step. All of them before a step was measured.
   */
  draftsThatPay(numRows: number, acceptance: number, most: number): number {
    const stepMs = this.ofRows(numRows)
    if (stepMs === null) return most
    let best = 0
    let bestGainMs = 0
    let numAccepted = 0
    for (let i = 1; i <= most; i++) {
      numAccepted += acceptance ** i
      const costMs = (this.ofRows(numRows + i) ?? stepMs) - stepMs
      const gainMs = (numAccepted * stepMs) / numRows - costMs
      if (gainMs < bestGainMs) continue
      best = i
      bestGainMs = gainMs
    }
    return best
  }

  /**
   * Prompt tokens that a step may compute beside so many decode rows. Where few streams decode, and they will be slower anyway once all prompts do, the
   * step may take about as long already. Beyond that prompts get their share of the time, at most as much as the decode rows, so that nobody waits more
   * than twice as long for a token. At most `mostMs`. Infinity before any were measured.
   */
  prefillTokensBeside(numDecodeRows: number, { numPrompts, numTokens }: PromptBacklog, mostMs: number): number {
    const tokenMs = this.#prefillTokenMs
    if (tokenMs === null || tokenMs === 0) return Infinity
    const decodeMs = this.ofRows(numDecodeRows) ?? mostMs
    const isLong = numTokens * tokenMs > BACKLOG_STEPS * decodeMs
    const least = isLong ? BACKLOG_SHARE : LEAST_PREFILL_SHARE
    const shareMs = decodeMs * Math.min(1, Math.max(least, numPrompts / numDecodeRows))
    const aheadMs = (this.ofRows(numDecodeRows + numPrompts) ?? mostMs) * PREFILL_STRETCH - decodeMs
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
