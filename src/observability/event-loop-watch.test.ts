import { afterEach, expect, it } from 'vitest'
import { EventLoopWatch, type Stall } from './event-loop-watch.ts'

let watch: EventLoopWatch
afterEach(() => watch.close())

function work(ms: number): void {
  const endMs = performance.now() + ms
  while (performance.now() < endMs);
}

/** The first stall after the work, which is done in a turn of its own. */
const stallOf = (doWork: () => void): Promise<Stall> =>
  new Promise((resolve) => {
    // Shorter ones are a busy machine's.
    watch = new EventLoopWatch((stall) => stall.durationMs > 200 && resolve(stall))
    watch.start()
    setImmediate(doWork)
  })

it('names the route whose work held the thread up', async () => {
  const stall = await stallOf(() => {
    watch.enter('/v1/completions')
    work(300)
  })
  expect(stall.route).toBe('/v1/completions')
  expect(stall.durationMs).toBeGreaterThan(150)
})

it('names none for work of no request, nor for one of long ago', async () => {
  const stall = await stallOf(() => {
    watch.enter('/v1/completions')
    // A tick later that request is no longer at work.
    setTimeout(() => work(300), 120)
  })
  expect(stall.route).toBe('none')
})
