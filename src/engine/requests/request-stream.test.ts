import { describe, expect, it } from 'vitest'
import { MAX_BUFFERED_CHARACTERS, MAX_BUFFERED_LOGPROBS, RequestStream } from './request-stream.ts'
import { EngineError } from '../request.ts'
import type { ChoiceLogprob, GenerationEvent } from '../request.ts'

const create = () =>
  new RequestStream(
    () => {},
    () => {},
  )

const token = (choice: number, id: number, logprobs: ChoiceLogprob[] | null = null): GenerationEvent => ({
  type: 'token',
  choice,
  text: `${id} `,
  tokenIds: [id],
  logprobs,
})

const entry = (tokenId: number, numTop: number): ChoiceLogprob => ({
  tokenId,
  token: '',
  bytes: [],
  detail: { logprob: 0, rank: 1, topTokens: [], topLogprobs: [] },
  top: Array.from({ length: numTop }, () => ({ tokenId: 0, token: '', bytes: [], logprob: 0 })),
})

async function read(stream: RequestStream): Promise<GenerationEvent[]> {
  const events: GenerationEvent[] = []
  for await (const event of stream) events.push(event)
  return events
}

const tokensOf = (events: readonly GenerationEvent[], choice: number) =>
  events.flatMap((event) => (event.type === 'token' && event.choice === choice ? event.tokenIds : []))

describe('a consumer that lags', () => {
  const ids = Array.from({ length: 5000 }, (_, i) => i)

  it('gets every token of every choice in order, in a bounded number of events', async () => {
    const stream = create()
    for (const id of ids) {
      stream.push(token(0, id))
      stream.push(token(1, -id))
    }
    stream.end()
    const events = await read(stream)
    expect(events.length).toBeLessThan(300)
    expect(tokensOf(events, 0)).toEqual(ids)
    expect(tokensOf(events, 1)).toEqual(ids.map((id) => -id))
    const text = events.map((event) => (event.type === 'token' && event.choice === 0 ? event.text : '')).join('')
    expect(text).toBe(ids.map((id) => `${id} `).join(''))
  })

  it('keeps the order when it catches up and lags again', async () => {
    const stream = create()
    const events: GenerationEvent[] = []
    for (const id of ids) {
      stream.push(token(0, id))
      // Reads in bursts, so that the buffer shrinks below the bound while a merged event is still in it.
      if (id % 700 !== 699) continue
      for (let i = 0; i < 20; i++) {
        const next = await stream.next()
        if (!next.done) events.push(next.value)
      }
    }
    stream.end()
    expect(tokensOf([...events, ...(await read(stream))], 0)).toEqual(ids)
  })

  it('overflows with log-probabilities, until it has read them', async () => {
    const stream = create()
    const numEvents = Math.ceil(MAX_BUFFERED_LOGPROBS / 21)
    for (let id = 0; id < numEvents - 1; id++) stream.push(token(0, id, [entry(id, 20)]))
    expect(stream.overflow).toBeNull()
    stream.push(token(0, numEvents, [entry(numEvents, 20)]))
    expect(stream.overflow).toMatchObject({ code: 'deadline', param: 'logprobs' })
    await stream.next()
    expect(stream.overflow).toBeNull()
  })

  it('gets an error at once: what it did not read is dropped', async () => {
    const stream = create()
    stream.push(token(0, 1))
    stream.end(new EngineError('deadline', 'too late'))
    await expect(stream.next()).rejects.toMatchObject({ code: 'deadline' })
    expect(await stream.next()).toEqual({ done: true, value: undefined })
  })

  it('overflows with text, until it has read it', async () => {
    const stream = create()
    const quarter = { ...token(0, 1), text: 'x'.repeat(MAX_BUFFERED_CHARACTERS / 4) }
    for (let i = 0; i < 4; i++) stream.push(quarter)
    expect(stream.overflow).toBeNull()
    stream.push(token(0, 2))
    expect(stream.overflow).toMatchObject({ code: 'deadline', param: null })
    await stream.next()
    expect(stream.overflow).toBeNull()
  })
})

describe('a consumer that polls', () => {
  it('is told of every event and of the end, and sees what next() would give', async () => {
    const stream = create()
    let numCalls = 0
    const first = stream.next()
    stream.push(token(0, 1))
    expect((await first).value).toMatchObject({ tokenIds: [1] })
    stream.onReadable(() => numCalls++)
    expect(stream.poll()).toBeNull()
    stream.push(token(0, 2))
    stream.push(token(0, 3))
    expect(numCalls).toBe(2)
    expect(stream.poll()).toMatchObject({ done: false, value: { tokenIds: [2] } })
    expect(stream.poll()).toMatchObject({ done: false, value: { tokenIds: [3] } })
    expect(stream.poll()).toBeNull()
    stream.end()
    expect(numCalls).toBe(3)
    expect(stream.poll()).toEqual({ done: true, value: undefined })
  })

  it('gets the error once, and no call after it left', async () => {
    const failing = create()
    failing.end(new EngineError('deadline', 'too late'))
    expect(() => failing.poll()).toThrow('too late')
    expect(failing.poll()).toEqual({ done: true, value: undefined })

    const left = create()
    let numCalls = 0
    left.onReadable(() => numCalls++)
    await left.return()
    left.push(token(0, 1))
    expect(numCalls).toBe(0)
  })
})
