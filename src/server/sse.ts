/** Server-sent events with back-pressure: frames are made only when the socket asks for them. */

import { piecesOf } from './large-json.ts'

const PING_AFTER_MS = 15_000

/** `data: {json}` of one chunk. */
export const dataFrame = (value: unknown): string => `data: ${JSON.stringify(value)}\n\n`

/** Frames as text, or in pieces that are each a small part of a millisecond's work: what grows with the request. */
export type Frames = string | Generator<string, void, void>

/** As dataFrame, for a chunk that may be large. */
export function* dataFramePieces(value: unknown): Generator<string, void, void> {
  yield 'data: '
  yield* piecesOf(value)
  yield '\n\n'
}
export const DONE_FRAME = 'data: [DONE]\n\n'
const PING_FRAME = ': ping\n\n'

export const SSE_HEADERS: Readonly<Record<string, string>> = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-cache',
  // Proxies that buffer would turn a stream into one late answer.
  'x-accel-buffering': 'no',
}

/** Where the frames of a stream come from. Nothing in it waits. */
export interface FrameSource {
  /** The frames there are now, joined: '' when there are none yet, null after the last. What it throws breaks the stream. */
  take(): string | null
  /** `listener` is called when take() has something again. */
  onReadable(listener: () => void): void
  /** The consumer went away; take() is not called again. */
  cancel(): void
}

/**
 * A byte stream of a source's frames. What a step of the engine brings to a stream, for all of its choices, is one chunk and so one write
 * to the socket. A comment ping goes out after 15 s of silence. Callbacks may run in any async context, so a source brings its own.
 */
export function sseStream(source: FrameSource): ReadableStream<Uint8Array> {
  let timer: NodeJS.Timeout | undefined
  let isAsked = false
  let isFlushQueued = false
  let isOver = false
  let sentMs = 0

  const send = (controller: ReadableStreamDefaultController<Uint8Array>, frames: string) => {
    isAsked = false
    sentMs = performance.now()
    controller.enqueue(Buffer.from(frames))
  }
  const flush = (controller: ReadableStreamDefaultController<Uint8Array>) => {
    if (!isAsked || isOver) return
    let frames: string | null
    try {
      frames = source.take()
    } catch (error) {
      // An exception in a microtask would crash the process.
      end()
      source.cancel()
      controller.error(error)
      return
    }
    if (frames === '') return
    if (frames !== null) {
      send(controller, frames)
      return
    }
    end()
    controller.close()
  }
  const end = () => {
    isOver = true
    clearTimeout(timer)
  }
  // One timer a stream, armed for what is left of the silence when it fires: a new one for each frame would cost as much as the frame.
  const watch = (controller: ReadableStreamDefaultController<Uint8Array>, delayMs: number) => {
    timer = setTimeout(() => {
      const silentMs = performance.now() - sentMs
      if (silentMs >= PING_AFTER_MS && isAsked) send(controller, PING_FRAME)
      watch(controller, silentMs >= PING_AFTER_MS ? PING_AFTER_MS : PING_AFTER_MS - silentMs)
    }, delayMs)
  }
  return new ReadableStream<Uint8Array>(
    {
      start(controller) {
        source.onReadable(() => {
          if (!isAsked || isFlushQueued) return
          isFlushQueued = true
          // After the step's other choices.
          queueMicrotask(() => {
            isFlushQueued = false
            flush(controller)
          })
        })
      },
      pull(controller) {
        if (timer === undefined) {
          sentMs = performance.now()
          watch(controller, PING_AFTER_MS)
        }
        isAsked = true
        flush(controller)
      },
      cancel() {
        end()
        source.cancel()
      },
    },
    { highWaterMark: 0 },
  )
}
