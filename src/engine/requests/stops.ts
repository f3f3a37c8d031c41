/** Turns token bytes into text that may be shown. Incomplete UTF-8 and possible beginnings of stop strings are held back. */
import { partialLength } from '../markers.ts'

/**
 * Decodes UTF-8 in pieces. A character's bytes may be spread over several tokens; they are held back until the character is complete. Invalid
 * bytes become U+FFFD, as in every UTF-8 decoder.
 */
export class IncrementalDetokenizer {
  readonly #decoder = new TextDecoder('utf-8', { fatal: false, ignoreBOM: true })

  push(bytes: Uint8Array): string {
    return this.#decoder.decode(bytes, { stream: true })
  }

  /** Ends the text: an incomplete character becomes U+FFFD. */
  flush(): string {
    return this.#decoder.decode()
  }
}

interface StopResult {
  /** Text that can no longer be part of a stop string. */
  readonly text: string
  /** The stop string that was found. Nothing may be pushed after it. */
  readonly stop: string | null
}

/**
 * Looks for stop strings in text that arrives in pieces. The stop string that ends first wins, and among those that end together the longest,
 * so the result does not depend on where the pieces are cut.
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
    const numHeld = partialLength(text, this.#stops)
    this.#held = text.slice(text.length - numHeld)
    return { text: text.slice(0, text.length - numHeld), stop: null }
  }

  /** Ends the text: what was held back is not part of a stop string. */
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
}
