import { once } from 'node:events'
import type { Worker } from 'node:worker_threads'
import { afterAll, expect, test } from 'vitest'
import { startAhead, takeThread } from './runner-thread.ts'

const started: Worker[] = []
const record = (worker: Worker): void => void started.push(worker)
process.on('worker', record)
afterAll(async () => {
  process.off('worker', record)
  await Promise.all(started.map((worker) => worker.terminate()))
})

/** The next thread that starts; process announces it in a later turn. */
const starting = async (): Promise<Worker> => (await once(process, 'worker'))[0] as Worker

test('a thread that was started ahead is used once; without one, and after it has ended, another is started', async () => {
  let next = starting()
  startAhead('reference')
  const ahead = await next
  startAhead('reference')
  expect(takeThread()).toBe(ahead)
  next = starting()
  expect(takeThread()).not.toBe(ahead)
  await next

  next = starting()
  startAhead('reference')
  const ended = await next
  const exit = once(ended, 'exit')
  await ended.terminate()
  await exit
  expect(takeThread()).not.toBe(ended)
})
