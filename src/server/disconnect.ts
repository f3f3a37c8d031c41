/** A client that goes away while its request is worked on. */
import { EngineError } from '../engine/request.ts'
import { ApiError } from './errors.ts'

/** Ends the trace as the client's leaving. Nobody reads the response: 499 is nginx's word for it. */
export const clientGone = (cause?: unknown): ApiError =>
  new ApiError('client_disconnect', 'the client went away', { cause })

/** The work's outcome; what it fails with once the client is gone ends the trace as that, not as an exception. */
export async function unlessGone<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    throw signal.aborted ? clientGone(error) : error
  }
}

/**
 * Work before a generation: it ends when the client has gone, or when the request's time is over.
 * @param deadlineMs on performance.now's clock; null: there is no end
 */
export async function whileWanted<T>(
  deadlineMs: number | null,
  gone: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const late = deadlineMs === null ? null : AbortSignal.timeout(Math.max(0, Math.ceil(deadlineMs - performance.now())))
  try {
    return await unlessGone(gone, work(late ? AbortSignal.any([gone, late]) : gone))
  } catch (error) {
    if (!late?.aborted || gone.aborted) throw error
    throw new EngineError('deadline', 'the request took longer than its time limit', null, { cause: error })
  }
}
