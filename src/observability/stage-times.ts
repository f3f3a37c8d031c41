/** How long the stages of a request took, for its Server-Timing header. */

/** Milliseconds as lines and headers have them: to the microsecond. */
export const roundMs = (ms: number): number => Math.round(ms * 1000) / 1000

/** Durations in milliseconds by stage name. */
export class StageTimes {
  readonly #durations = new Map<string, number>()

  /** A stage of this name ended; several add up. */
  add(name: string, ms: number): void {
    this.#durations.set(name, (this.#durations.get(name) ?? 0) + ms)
  }

  /** Sums by name, in place of what was there. */
  set(durationsMs: Readonly<Record<string, number>>): void {
    for (const [name, ms] of Object.entries(durationsMs)) this.#durations.set(name, ms)
  }

  /** Value of the Server-Timing header; null: there is nothing to say. */
  header(totalMs: number): string | null {
    if (this.#durations.size === 0) return null
    const stages = [...this.#durations].map(([name, ms]) => `${name};dur=${roundMs(ms)}`)
    return [...stages, `total;dur=${roundMs(totalMs)}`].join(', ')
  }
}
