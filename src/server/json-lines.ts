/** A body of JSON lines, read line by line as it arrives: it is never in memory as a whole. */
import type { Context } from 'hono'
import { readChunks } from './body.ts'
import { type AppEnv, placeOf } from './env.ts'
import { ApiError } from './errors.ts'
import { JsonText } from './json-text.ts'

/** Media types in use for JSON lines; none is registered. */
export const JSON_LINES_TYPE = /^application\/(?:x-)?(?:ndjson|jsonl|jsonlines)\s*(?:;|$)/i

/** A line that is not blank: its number, counted from 1, and its value or why it has none. */
export type JsonLine = {
  readonly line: number
  /** Bytes of the body from the end of the previous line that was not blank. */
  readonly numBytes: number
} & ({ readonly value: unknown } | { readonly problem: string })

/**
 * The lines of the body. A line is read when it is asked for, so a client that sends faster than its lines are processed has to wait.
 * @throws ApiError 408, 413, 415, 429, and 499 when the client went away.
 */
export async function* readJsonLines(c: Context<AppEnv>): AsyncGenerator<JsonLine, void, void> {
  const place = placeOf(c)
  yield* splitLines(readChunks(c, place.maxBytes, place.arrived))
  place.parsed()
}

const LINE_FEED = 0x0a

/** Blank lines are counted but not yielded, so that a body of blank lines costs little. */
async function* splitLines(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<JsonLine, void, void> {
  let number = 1
  let line: Line | null = null
  let numBytes = 0
  for await (const chunk of chunks) {
    let start = 0
    while (start < chunk.length) {
      const lineFeed = chunk.indexOf(LINE_FEED, start)
      const end = lineFeed === -1 ? chunk.length : lineFeed
      if (end > start) (line ??= new Line(number)).write(chunk.subarray(start, end))
      numBytes += end - start
      start = end
      if (lineFeed === -1) break
      start++
      numBytes++
      number++
      if (line && !line.isBlank) {
        yield { ...line.result(), numBytes }
        numBytes = 0
      }
      line = null
    }
  }
  if (line && !line.isBlank) yield { ...line.result(), numBytes }
}

/** A line while its bytes arrive. */
class Line {
  readonly #number: number
  readonly #text: JsonText
  /** What is wrong with it. The rest of its bytes is then ignored. */
  #problem: string | null = null

  constructor(number: number) {
    this.#number = number
    this.#text = new JsonText(`line ${number}`)
  }

  get isBlank(): boolean {
    return this.#text.isBlank
  }

  write(bytes: Uint8Array): void {
    if (this.#problem === null) this.#attempt(() => this.#text.write(bytes))
  }

  result(): { readonly line: number } & ({ readonly value: unknown } | { readonly problem: string }) {
    const value = this.#problem === null ? this.#attempt(() => this.#text.parse(this.#text.join())) : undefined
    return this.#problem === null ? { line: this.#number, value } : { line: this.#number, problem: this.#problem }
  }

  #attempt<T>(work: () => T): T | undefined {
    try {
      return work()
    } catch (error) {
      if (!(error instanceof ApiError)) throw error
      this.#problem = error.message
      return undefined
    }
  }
}
