/** A request's body of JSON lines, a line at a time as it comes in: the whole of it is never in memory. */
import type { Context } from 'hono'
import { readChunks } from './body.ts'
import type { AppEnv } from './env.ts'
import { ApiError } from './errors.ts'
import { JsonText } from './json-text.ts'

/** Media types in use for JSON lines; none is registered. */
export const JSON_LINES_TYPE = /^application\/(?:x-)?(?:ndjson|jsonl|jsonlines)\s*(?:;|$)/i

/** A line that is not blank: its number from 1 on, and its value or why it has none. */
export type JsonLine = {
  readonly line: number
  /** Of the body, up to its end from the end of the line before that was not blank. */
  readonly numBytes: number
} & ({ readonly value: unknown } | { readonly problem: string })

/**
 * The lines of the body, at most `maxBytes` together. The next is read when it is asked for, so that a client that sends faster than its
 * lines are worked on has to wait.
 * @throws ApiError 408, 413, 415, 429, and 499 when the client went away.
 */
export async function* readJsonLines(c: Context<AppEnv>, maxBytes: number): AsyncGenerator<JsonLine, void, void> {
  const reading = c.get('bodyReading')
  yield* splitLines(readChunks(c, maxBytes, (numBytes) => reading?.arrived(numBytes)))
  reading?.parsed()
}

const LINE_FEED = 0x0a

/** Blank lines are counted and left out here: a body of nothing else must not cost a turn of two generators for each. */
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

/** A line as its bytes come in. */
class Line {
  readonly #number: number
  readonly #text: JsonText
  /** What is wrong with it; the rest of its bytes is of no use then. */
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
