/** From token bytes to text that may be shown: incomplete UTF-8 and what may become a stop string are held back. */

/**
 * Bytes in, text out. A character's bytes may be spread over several tokens; they are held back until it is complete. Bytes that
 * can never become a character turn into U+FFFD, as every UTF-8 decoder does it.
 */
export class IncrementalDetokenizer {
  readonly #decoder = new TextDecoder('utf-8', { fatal: false, ignoreBOM: true })

  push(bytes: Uint8Array): string {
    return this.#decoder.decode(bytes, { stream: true })
  }

  /** The end: a started character becomes U+FFFD. */
  flush(): string {
    return this.#decoder.decode()
  }
}

interface StopResult {
  /** Text that can no longer be part of a stop string. */
  readonly text: string
  /** The stop string that was completed; nothing may be pushed after it. */
  readonly stop: string | null
}

/**
 * Looks for stop strings in text that arrives in pieces. The stop string whose last character comes first wins, and of those that
 * end there the longest, so where the pieces' borders fall makes no difference.
 */
export class StopMatcher {
  readonly #stops: readonly string[]
  readonly #includeStop: boolean
  #held = ''

  constructor(stops: readonly string[], includeStop: boolean) {
    this.#stops = stops.filter((stop) => stop !== '')
    this.#includeStop = includeStop
  }

  push(piece: string): StopResult {
    if (this.#stops.length === 0) return { text: piece, stop: null }
    const text = this.#held + piece
    const match = this.#find(text)
    if (match !== null) {
      this.#held = ''
      return { text: text.slice(0, this.#includeStop ? match.end : match.start), stop: match.stop }
    }
    const numHeld = this.#countHeld(text)
    this.#held = text.slice(text.length - numHeld)
    return { text: text.slice(0, text.length - numHeld), stop: null }
  }

  /** The end: what was held back is text after all. */
  flush(): string {
    const text = this.#held
    this.#held = ''
    return text
  }

  #find(text: string): { start: number; end: number; stop: string } | null {
    let best: { start: number; end: number; stop: string } | null = null
    for (const stop of this.#stops) {
      const start = text.indexOf(stop)
      if (start < 0) continue
      const end = start + stop.length
      if (best === null || end < best.end || (end === best.end && start < best.start)) best = { start, end, stop }
    }
    return best
  }

  /** Length of the longest end of `text` that begins a stop string. */
  #countHeld(text: string): number {
    let longest = 0
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
        if (text.endsWith(stop.slice(0, length))) longest = length
      }
    }
    return longest
  }
}
