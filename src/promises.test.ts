import { expect, it } from 'vitest'
import { endedWithin, untilAborted, untilLate } from './promises.ts'

const never = new Promise<never>(() => {})

it('a wait ends with its signal, even if that was aborted before', async () => {
  const reason = new Error('stopped')
  await expect(untilAborted(never, AbortSignal.abort(reason))).rejects.toBe(reason)
  const abort = new AbortController()
  const waiting = untilAborted(never, abort.signal)
  abort.abort(reason)
  await expect(waiting).rejects.toBe(reason)
  expect(await untilAborted(Promise.resolve(1), new AbortController().signal)).toBe(1)
})

it('a wait with a time limit ends with the work, its error, or the error of the limit', async () => {
  const late = () => new Error('late')
  expect(await untilLate(Promise.resolve(1), 60_000, late)).toBe(1)
  await expect(untilLate(Promise.reject(new Error('failed')), 60_000, late)).rejects.toThrow('failed')
  await expect(untilLate(never, 1, late)).rejects.toThrow('late')
})

it('a wait for an end ends without an error', async () => {
  await endedWithin(60_000, Promise.reject(new Error('failed')))
  await endedWithin(60_000, undefined)
  await endedWithin(1, never)
})
