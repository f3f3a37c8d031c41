/** A stream's span, whoever reads the stream: its frames are asked for by sockets, whose callbacks run in any async context. */
import { afterAll, describe, expect, it } from 'vitest'
import { open, play, storedTree, testObservability } from '../../test/observability/scenario.ts'
import type { GenerationEvent, GenerationStream } from '../engine/request.ts'
import { completionShape } from './completion-shape.ts'
import type { GenerationJob } from './job.ts'
import { sseStream } from './sse.ts'
import { StreamedOutput } from './streamed-output.ts'

const observability = testObservability()
afterAll(() => observability.shutdown(100))

const job = {
  shown: { choices: 1, logprobs: -1 },
  requestId: 'cmpl-1',
  created: 1,
  model: 'tiny',
  echo: false,
  returnTokenIds: false,
  generation: { n: 1, logprobs: -1, maxTokens: 16, prompts: [{ ids: [1] }] },
} as unknown as GenerationJob
const token: GenerationEvent = { type: 'token', choice: 0, text: 'a', tokenIds: [7], logprobs: null }

/** Events that are all there; the stream stays open after them, or ends. */
function eventsOf(events: GenerationEvent[], isEndless: boolean): GenerationStream {
  const poll = () => {
    const value = events.shift()
    if (value !== undefined) return { done: false as const, value }
    return isEndless ? null : { done: true as const, value: undefined }
  }
  return {
    poll,
    onReadable: () => {},
    next: async () => poll() ?? { done: true, value: undefined },
    return: async () => ({ done: true, value: undefined }),
    [Symbol.asyncIterator]() {
      return this
    },
  }
}

describe('the span of a stream that is read in another async context', () => {
  const streamOf = async (isEndless: boolean) => {
    const { trace } = await play(observability, 'generated', { isStreamed: true })
    const events = eventsOf([token, token], isEndless)
    const scope = { trace, abort: new AbortController(), admitted: () => {}, charge: () => {} }
    const shape = completionShape(job, [{ text: '', firstToken: '' }])
    const output = new StreamedOutput({ job, accepted: { first: token, events }, shape, citations: null }, scope)
    return { trace, output }
  }
  const expectBelowRoot = (traceId: string, ending: string) => {
    const { spans, rootSpanId, ...stored } = storedTree(observability, traceId)
    const formats = spans.filter(({ name }) => name === 'format.output')
    expect(formats.map(({ parentSpanContext }) => parentSpanContext?.spanId)).toEqual([rootSpanId])
    expect(stored.ending).toBe(ending)
  }

  it('is below its own root when another request reads it to the end', async () => {
    const { trace, output } = await streamOf(false)
    const other = open(observability)
    const text = await other.run(() => new Response(sseStream(output)).text())
    expect(text).toContain('data: [DONE]')
    other.finish({ ending: 'success', status: 200 })
    expectBelowRoot(trace.traceId, 'success')
    expect(storedTree(observability, other.traceId).spans.map(({ name }) => name)).toEqual(['http.handler'])
  })

  it('is below its own root when it is begun and cancelled outside any request', async () => {
    const { trace, output } = await streamOf(true)
    const reader = sseStream(output).getReader()
    await reader.read()
    await reader.cancel()
    expectBelowRoot(trace.traceId, 'closed_early')
  })
})
