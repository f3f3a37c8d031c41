/** A request's body of JSON lines, a line at a time as it comes in: the whole of it is never in memory. */
import { isUtf8 } from 'node:buffer'
import type { Context } from 'hono'
import { parseJson, readChunks } from './body.ts'
import type { AppEnv } from './env.ts'
import { ApiError } from './errors.ts'

/** The media types that JSON lines go by; none is registered. */
export const JSON_LINES_TYPE = /^application\/(?:x-)?(?:ndjson|jsonl|jsonlines)\s*(?:;|$)/i

/** A line that is not blank: its number from 1 on, and its value or why it has none. */
export type JsonLine =
  { readonly line: number; readonly value: unknown } | { readonly line: number; readonly problem: string }

/**
 * The lines of the body, at most `maxBytes` together. The next is read when it is asked for, so that a client that sends faster than its
 * lines are worked on has to wait.
 * @throws ApiError 408, 413, 429, and 499 when the client went away.
 */
export async function* readJsonLines(c: Context<AppEnv>, maxBytes: number): AsyncGenerator<JsonLine, void, void> {
  const reading = c.get('bodyReading')
  for await (const { line, bytes } of splitLines(
    readChunks(c.req.raw.body, maxBytes, (num) => reading?.arrived(num)),
  )) {
    yield parseLine(line === 1 ? withoutMark(bytes) : bytes, line)
  }
  reading?.parsed()
}

interface Line {
  readonly line: number
  readonly bytes: Buffer
}

const [TAB, LINE_FEED, CARRIAGE_RETURN, SPACE] = [0x09, 0x0a, 0x0d, 0x20]

const isBlank = (bytes: Uint8Array): boolean =>
  bytes.every((byte) => byte === SPACE || byte === TAB || byte === CARRIAGE_RETURN)

/** Blank lines are counted and left out here: a body of nothing else must not cost a turn of two generators for each. */
async function* splitLines(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Line, void, void> {
  /** Parts of a line whose end has not come. */
  let parts: Uint8Array[] = []
  let line = 0
  for await (const chunk of chunks) {
    let start = 0
    for (let end = chunk.indexOf(LINE_FEED); end !== -1; end = chunk.indexOf(LINE_FEED, start)) {
      line++
      if (end === start && parts.length === 0) {
        start++
        continue
      }
      parts.push(chunk.subarray(start, end))
      if (!parts.every(isBlank)) yield { line, bytes: Buffer.concat(parts) }
      parts = []
      start = end + 1
    }
    if (start < chunk.length) parts.push(chunk.subarray(start))
  }
  if (!parts.every(isBlank)) yield { line: line + 1, bytes: Buffer.concat(parts) }
}

const UTF8_MARK = Buffer.from([0xef, 0xbb, 0xbf])

const withoutMark = (bytes: Buffer): Buffer =>
  bytes.subarray(0, UTF8_MARK.length).equals(UTF8_MARK) ? bytes.subarray(UTF8_MARK.length) : bytes

function parseLine(bytes: Buffer, line: number): JsonLine {
  if (!isUtf8(bytes)) return { line, problem: `line ${line}: expected UTF-8 text` }
  try {
    return { line, value: parseJson(bytes, `line ${line}`) }
  } catch (error) {
    if (!(error instanceof ApiError)) throw error
    return { line, problem: error.message }
  }
}
