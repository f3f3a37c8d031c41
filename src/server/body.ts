/** Reading a request's body: bounded in bytes, time and nesting. */
import type { Context } from 'hono'
import type { AppEnv } from './env.ts'
import { ApiError, invalidRequest } from './errors.ts'

/** A body must make progress within the first and be whole within the second, with a second more for each MiB it may have. */
const BODY_IDLE_MS = 10_000
const BODY_TOTAL_MS = 30_000

/** Nesting of a body. Recursive code runs over parsed values; past the stack's end it would fail with the server's error. */
const MAX_JSON_DEPTH = 128

/**
 * The request's body as JSON, read with a bound (a chunked body has no Content-Length to refuse it by) and within a time.
 * @throws ApiError 400, 408, 413, 429, and 499 when the client went away.
 */
export async function readJson(c: Context<AppEnv>, maxBytes: number): Promise<unknown> {
  const reading = c.get('bodyReading')
  const bytes = await readBody(c.req.raw.body, maxBytes, (numBytes) => reading?.arrived(numBytes))
  if (bytes.length === 0) throw invalidRequest('body: expected a JSON object, found nothing')
  const value = parseJson(bytes, 'body')
  reading?.parsed()
  return value
}

/**
 * The bytes of a body, at most `maxBytes`, read within a time.
 * @throws ApiError 408, 413, and 499 when the client went away.
 */
export async function readBody(
  body: ReadableStream<Uint8Array> | null,
  maxBytes: number,
  onArrival: (numBytes: number) => void = () => {},
): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  for await (const chunk of readChunks(body, maxBytes, onArrival)) chunks.push(chunk)
  return Buffer.concat(chunks)
}

/**
 * The bytes of a body as they come, at most `maxBytes`. What counts against the time is waiting for them, not what is done in between.
 * @throws ApiError 408, 413, and 499 when the client went away.
 */
export async function* readChunks(
  body: ReadableStream<Uint8Array> | null,
  maxBytes: number,
  onArrival: (numBytes: number) => void,
): AsyncGenerator<Uint8Array, void, void> {
  if (!body) return
  let leftMs = BODY_TOTAL_MS + (maxBytes / 2 ** 20) * 1000
  let numBytes = 0
  const reader = body.getReader()
  let isWhole = false
  try {
    for (;;) {
      const askedMs = performance.now()
      const { done, value } = await readChunk(reader, Math.min(BODY_IDLE_MS, leftMs))
      leftMs -= performance.now() - askedMs
      if (done) {
        isWhole = true
        return
      }
      numBytes += value.byteLength
      if (numBytes > maxBytes) {
        throw new ApiError(413, 'invalid_request_error', `body: expected at most ${maxBytes} bytes`, {
          code: 'request_too_large',
        })
      }
      onArrival(value.byteLength)
      yield value
    }
  } finally {
    // What is left is of no use. A stream that broke, or a read that never ends, has nothing to say to it.
    if (!isWhole) reader.cancel().catch(() => {})
  }
}

/** @throws ApiError 408 after `timeoutMs`, 499 when the stream breaks: only a client that went away breaks it. */
async function readChunk(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  timeoutMs: number,
): Promise<Awaited<ReturnType<typeof reader.read>>> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () =>
        reject(
          new ApiError(408, 'invalid_request_error', 'body: expected the rest of it in time, found no end', {
            code: 'request_timeout',
          }),
        ),
      Math.max(timeoutMs, 0),
    )
  })
  const chunk = reader.read().catch((error: unknown) => {
    throw new ApiError(499 as 500, 'server_error', 'the client went away', { code: 'client_disconnect', cause: error })
  })
  try {
    return await Promise.race([chunk, late])
  } finally {
    clearTimeout(timer)
  }
}

/** @param where for messages: `body`, or a line of it. @throws ApiError 400 when it is not JSON, or nests too deep. */
export function parseJson(bytes: Buffer, where: string): unknown {
  requireFlat(bytes, where)
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch (error) {
    // The parser's message quotes the body.
    const position = /position (\d+)/.exec(String(error))?.[1]
    throw invalidRequest(`${where}: expected JSON, found something else${position ? ` at byte ${position}` : ''}`)
  }
}

const [QUOTE, BACKSLASH, OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT] = [0x22, 0x5c, 0x5b, 0x5d, 0x7b, 0x7d]

/** @throws ApiError 400 when JSON text nests deeper than it may. */
function requireFlat(bytes: Buffer, where: string): void {
  let depth = 0
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]
    if (byte === QUOTE) i = endOfString(bytes, i)
    else if (byte === CLOSE_ARRAY || byte === CLOSE_OBJECT) depth--
    else if ((byte === OPEN_ARRAY || byte === OPEN_OBJECT) && ++depth > MAX_JSON_DEPTH) {
      throw invalidRequest(`${where}: expected at most ${MAX_JSON_DEPTH} levels of nesting, found more`)
    }
  }
}

/** The place of the closing quote; the end of the bytes where there is none. */
function endOfString(bytes: Buffer, start: number): number {
  for (let end = bytes.indexOf(QUOTE, start + 1); end !== -1; end = bytes.indexOf(QUOTE, end + 1)) {
    let first = end
    while (bytes[first - 1] === BACKSLASH) first--
    if ((end - first) % 2 === 0) return end
  }
  return bytes.length
}
