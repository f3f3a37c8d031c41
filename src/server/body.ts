/** Reading a request's body: bounded in bytes, time, nesting and number of values. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Context } from 'hono'
import type { z } from 'zod'
import { Slice } from '../rag/slice.ts'
import { type AppEnv, bindingsOf, placeOf } from './env.ts'
import { ApiError, invalidRequest, tooLarge, clientGone } from './errors.ts'
import { JsonText } from './json-text.ts'
import { untilLate } from '../promises.ts'
import { parseBody } from './validation.ts'

/** A body must progress within the first time and be complete within the second, plus a second for each MiB that it may have. */
const BODY_IDLE_MS = 10_000
const BODY_TOTAL_MS = 30_000

/**
 * The request's body as JSON. The limits of bytes and time apply while it arrives: a chunked body has no Content-Length.
 * @throws ApiError 400, 408, 413, 415, 429, and 499 when the client went away.
 */
export async function readJson(c: Context<AppEnv>): Promise<unknown> {
  const place = placeOf(c)
  const text = new JsonText('body')
  let size = 0
  const onArrival = (numBytes: number) => {
    size += numBytes
    place.arrived(numBytes)
  }
  for await (const chunk of readChunks(c, place.maxBytes, onArrival)) text.write(chunk)
  if (text.isBlank) throw invalidRequest('body: expected a JSON object, found nothing')
  const isLarge = size > LARGE_BYTES
  // A large body is joined, parsed and validated in three turns of the event loop.
  if (isLarge) await turnOfItsOwn()
  c.get('atWork')?.()
  const json = text.join()
  if (isLarge) await turnOfItsOwn()
  const value = text.parse(json)
  place.parsed()
  if (isLarge) await turnOfItsOwn()
  return value
}

/** The request's body, validated against its schema. @throws as readJson, and ApiError 400 for what does not fit. */
export const readBody = async <T extends z.ZodType>(c: Context<AppEnv>, type: T): Promise<z.output<T>> =>
  parseBody(type, await readJson(c))

/** A MiB of JSON takes several milliseconds to parse. */
const LARGE_BYTES = 2 ** 20

let lastTurn: Promise<void> = Promise.resolve()

/** A turn of the event loop in which no other large body is processed, so that other requests are served in between. */
function turnOfItsOwn(): Promise<void> {
  lastTurn = lastTurn.then(() => nextTurn())
  return lastTurn
}

/** The bytes of the whole body. @throws as readJson. */
export async function readBytes(c: Context<AppEnv>): Promise<Uint8Array> {
  const place = placeOf(c)
  const chunks: Uint8Array[] = []
  for await (const chunk of readChunks(c, place.maxBytes, place.arrived)) chunks.push(chunk)
  const bytes = new Uint8Array(Buffer.concat(chunks))
  place.parsed()
  return bytes
}

/**
 * The bytes of a body as they arrive, at most `maxBytes`. Only the time spent waiting for them is limited.
 * @throws ApiError 408, 413, 415, and 499 when the client went away.
 */
export async function* readChunks(
  c: Context<AppEnv>,
  maxBytes: number,
  onArrival: (numBytes: number) => void = () => {},
): AsyncGenerator<Uint8Array, void, void> {
  requireReadable(c)
  const { body } = c.req.raw
  if (!body) return
  inviteBody(c)
  let leftMs = BODY_TOTAL_MS + (maxBytes / 2 ** 20) * 1000
  let numBytes = 0
  const reader = body.getReader()
  // Chunks that arrived together come without a turn of the event loop between them.
  const slice = new Slice()
  let isWhole = false
  try {
    for (;;) {
      const askedMs = performance.now()
      const { done, value } = await readChunk(reader, Math.min(BODY_IDLE_MS, leftMs))
      const waitedMs = performance.now() - askedMs
      leftMs -= waitedMs
      if (waitedMs > 1) slice.restart()
      if (done) {
        isWhole = true
        return
      }
      numBytes += value.byteLength
      if (numBytes > maxBytes) throw tooLarge(maxBytes)
      onArrival(value.byteLength)
      yield value
      if (slice.isOver) await slice.end()
    }
  } finally {
    if (!isWhole) void discardRest(reader)
  }
}

/**
 * Reads the rest and drops it. Cancelling would destroy the connection, and a client that is still sending would get a broken pipe instead
 * of its response. The HTTP adapter limits this: it closes the connection 500 ms after the response, or after 64 MiB.
 */
async function discardRest(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
  const slice = new Slice()
  try {
    while (!(await reader.read()).done) if (slice.isOver) await slice.end()
  } catch {
    // The connection is closed.
  }
}

/** @throws ApiError 415 for an encoding or a character set that the server does not read. */
function requireReadable(c: Context<AppEnv>): void {
  const encoding = c.req.header('content-encoding')?.trim().toLowerCase() ?? 'identity'
  if (encoding !== 'identity' && encoding !== '') {
    throw unsupportedMedia('Content-Encoding: expected none (identity), found another; send the body uncompressed')
  }
  const charset = /;\s*charset\s*=\s*"?([^\s";]+)/i.exec(c.req.header('content-type') ?? '')?.[1]?.toLowerCase()
  if (charset !== undefined && !/^(?:utf-?8|us-ascii|ascii)$/.test(charset)) {
    throw unsupportedMedia('Content-Type: expected charset utf-8, found another')
  }
}

/** 415 naming the header at fault. */
export const unsupportedMedia = (message: string): ApiError => new ApiError('unsupported_media_type', message)

/** Sends 100 Continue to a client that waits for it, now that the request has been admitted. */
function inviteBody(c: Context<AppEnv>): void {
  if (!isExpecting(c)) return
  c.set('isBodyInvited', true)
  const { outgoing } = bindingsOf(c)
  if (outgoing && 'writeContinue' in outgoing) outgoing.writeContinue()
}

/** Whether the client waits for 100 Continue before it sends the body. */
export const isExpecting = (c: Context<AppEnv>): boolean => c.req.header('expect')?.toLowerCase() === '100-continue'

/** @throws ApiError 408 after `timeoutMs`, 499 when the stream breaks: only a client that went away breaks it. */
async function readChunk(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  timeoutMs: number,
): Promise<Awaited<ReturnType<typeof reader.read>>> {
  const chunk = reader.read().catch((error: unknown) => {
    throw clientGone(error)
  })
  const late = () => new ApiError('request_timeout', 'body: expected the rest of it in time, found no end')
  try {
    return await untilLate(chunk, timeoutMs, late)
  } catch (error) {
    // Otherwise a read that is late would never end. Not before the error: the read would end as if the body had.
    reader.cancel().catch(() => {})
    throw error
  }
}
