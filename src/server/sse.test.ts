import { afterEach, describe, expect, it, vi } from 'vitest'
import type { TokenEvent } from '../engine/request.ts'
import type { GenerationJob } from './job.ts'
import { chatShape } from './chat-shape.ts'
import { completionShape } from './completion-shape.ts'
import { dataFrame, type FrameSource, sseStream } from './sse.ts'

/** Frames that are pushed, and what became of the consumer. */
class PushedFrames implements FrameSource {
  readonly #frames: string[] = []
  #listener = () => {}
  #isOver = false
  isCancelled = false

  push(...frames: readonly string[]): void {
    for (const frame of frames) {
      this.#frames.push(frame)
      this.#listener()
    }
  }

  end(): void {
    this.#isOver = true
    this.#listener()
  }

  take(): string | null {
    const frames = this.#frames.splice(0).join('')
    return frames === '' && this.#isOver ? null : frames
  }

  onReadable(listener: () => void): void {
    this.#listener = listener
  }

  cancel(): void {
    this.isCancelled = true
  }
}

const open = (source: FrameSource) => {
  const reader = sseStream(source).getReader()
  return { reader, read: async () => new TextDecoder().decode((await reader.read()).value) }
}

afterEach(() => vi.useRealTimers())

describe('a stream of frames', () => {
  it('brings what one step brought, for all choices, in one chunk, and the next step’s in another', async () => {
    const source = new PushedFrames()
    const { reader, read } = open(source)
    const first = read()
    source.push('a', 'b', 'c')
    expect(await first).toBe('abc')
    // Not asked for yet: kept, and given at once when it is.
    source.push('d')
    source.push('e')
    expect(await read()).toBe('de')
    source.push('last')
    source.end()
    expect(await read()).toBe('last')
    expect((await reader.read()).done).toBe(true)
  })

  it('pings after 15 s of silence, and not while frames come', async () => {
    vi.useFakeTimers()
    const source = new PushedFrames()
    const { read } = open(source)
    const first = read()
    vi.advanceTimersByTime(10_000)
    source.push('frame')
    expect(await first).toBe('frame')
    const second = read()
    let isThere = false
    void second.then(() => (isThere = true))
    await vi.advanceTimersByTimeAsync(14_000)
    expect(isThere).toBe(false)
    await vi.advanceTimersByTimeAsync(1_500)
    expect(await second).toBe(': ping\n\n')
    const third = read()
    await vi.advanceTimersByTimeAsync(15_000)
    expect(await third).toBe(': ping\n\n')
    source.end()
    await vi.advanceTimersByTimeAsync(0)
    await read()
    expect(vi.getTimerCount()).toBe(0)
  })

  it('tells its source that the consumer left, and breaks where the source does', async () => {
    vi.useFakeTimers()
    const left = new PushedFrames()
    const { reader, read } = open(left)
    left.push('a')
    await read()
    await reader.cancel()
    left.push('b')
    expect(left.isCancelled).toBe(true)

    const broken = new PushedFrames()
    broken.take = () => {
      throw new Error('broken')
    }
    await expect(open(broken).read()).rejects.toThrow('broken')
    expect(broken.isCancelled).toBe(true)
    expect(vi.getTimerCount()).toBe(0)
  })
})

describe('a token’s frame', () => {
  const job = (fields: Partial<GenerationJob['generation']> = {}, returnTokenIds = false) =>
    ({
      shown: { choices: 2, logprobs: fields.logprobs ?? -1 },
      requestId: 'cmpl-1',
      created: 1,
      model: 'a "model"',
      echo: false,
      returnTokenIds,
      generation: { n: 2, logprobs: -1, prompts: [{ ids: [1] }], ...fields },
    }) as GenerationJob
  const echo = [{ text: '', firstToken: '' }]
  const event = (choice: number, text: string): TokenEvent => ({
    type: 'token',
    choice,
    text,
    tokenIds: [7],
    logprobs: null,
  })

  it('is that of the whole chunk, whatever the text', () => {
    const completion = completionShape(job(), echo)
    const chat = chatShape(job())
    for (const text of ['a', '"\\\n', '\u{1F600}', '\u2028', '\ud800', '\0text\0', '$&']) {
      for (const choice of [0, 1, 0]) {
        expect(completion.token(event(choice, text))).toBe(
          dataFrame({
            id: 'cmpl-1',
            object: 'text_completion',
            created: 1,
            model: 'a "model"',
            choices: [{ index: choice, text, logprobs: null, finish_reason: null }],
          }),
        )
        expect(chat.token(event(choice, text))).toBe(
          dataFrame({
            id: 'cmpl-1',
            created: 1,
            model: 'a "model"',
            object: 'chat.completion.chunk',
            choices: [{ index: choice, delta: { content: text }, logprobs: null, finish_reason: null }],
          }),
        )
      }
    }
  })

  it('is none without text, unless token ids were asked for', () => {
    expect(completionShape(job(), echo).token(event(0, ''))).toBe('')
    expect(chatShape(job()).token(event(0, ''))).toBe('')
    expect(completionShape(job({}, true), echo).token(event(0, ''))).toContain('"token_ids":[7]')
    expect(chatShape(job({}, true)).token(event(0, ''))).toContain('"token_ids":[7]')
  })
})
