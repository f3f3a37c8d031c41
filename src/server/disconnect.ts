/** A client that goes away while its request is worked on. */
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
