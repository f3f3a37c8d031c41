/** Server-sent events with back-pressure: a frame is made only when the socket asks for one. */

const PING_AFTER_MS = 15_000
const encoder = new TextEncoder()

/** `data: {json}` of one chunk. */
export const dataFrame = (value: unknown): string => `data: ${JSON.stringify(value)}\n\n`
export const DONE_FRAME = 'data: [DONE]\n\n'
const PING_FRAME = ': ping\n\n'

export const SSE_HEADERS: Readonly<Record<string, string>> = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-cache',
  // Proxies that buffer would turn a stream into one late answer.
  'x-accel-buffering': 'no',
}

/**
 * A byte stream of the frames an iterator yields; a comment ping goes out after 15 s of silence. `onCancel` is told when the
 * consumer goes away; the iterator is then returned. The caller binds the iterator to its async context: pulls come from the
 * socket and carry none.
 */
export function sseStream(frames: AsyncIterator<string>, onCancel: () => void): ReadableStream<Uint8Array> {
  let pending: Promise<IteratorResult<string>> | null = null
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        pending ??= frames.next()
        let timer: NodeJS.Timeout | undefined
        const silence = new Promise<'silence'>((resolve) => {
          timer = setTimeout(() => resolve('silence'), PING_AFTER_MS)
        })
        try {
          const next = await Promise.race([pending, silence])
          if (next === 'silence') {
            controller.enqueue(encoder.encode(PING_FRAME))
            return
          }
          pending = null
          if (next.done) controller.close()
          else controller.enqueue(encoder.encode(next.value))
        } finally {
          clearTimeout(timer)
        }
      },
      async cancel() {
        onCancel()
        await frames.return?.()
      },
    },
    { highWaterMark: 0 },
  )
}
