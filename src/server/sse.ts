/** Server-sent events with back-pressure: frames are made only when the socket asks for them. */
import { piecesOf } from './large-json.ts'

const PING_AFTER_MS = 15_000

/** `data: {json}` of one chunk. */
export const dataFrame = (value: unknown): string => `data: ${JSON.stringify(value)}\n\n`

/** Frames as text. Those that may be large are generated in pieces that take a small part of a millisecond each. */
export type Frames = string | Generator<string, void, void>

/** Like dataFrame, for a chunk that may be large. */
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
  // Proxies must not buffer the stream.
  'x-accel-buffering': 'no',
}

/** The source of a stream's frames. None of its methods waits. */
export interface FrameSource {
  /** All frames that are ready, joined: '' if there are none yet, null after the last. An exception breaks the stream. */
  take(): string | null
  /** Calls the listener whenever take() has frames again. */
  onReadable(listener: () => void): void
  /** The consumer has gone. take() is not called again. */
  cancel(): void
}

/**
 * A byte stream of a source's frames. The frames of one engine step, for all choices, are one chunk and so one write to the socket. After
 * 15 s of silence it sends a comment as a ping. The source is called in any async context.
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
  // One timer per stream. When it fires, it waits for the rest of the silence: a new timer per frame would cost as much as the frame.
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
          // Waits for the other choices of the step.
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
