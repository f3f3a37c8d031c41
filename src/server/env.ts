/** What the middleware leaves for the handlers. */
import type { HttpBindings } from '@hono/node-server'
import type { Context } from 'hono'
import type { RequestTrace } from '../observability/request-trace.ts'
import type { Caller } from './keys.ts'
import type { Route } from './routes.ts'

/** Where the request came from, as far as the socket knows. */
export const addressOf = (c: Context<AppEnv>): string => bindingsOf(c).incoming?.socket.remoteAddress ?? 'unknown'

/** Calls a function when the answer is out, or can no longer be given. Where there is no socket, at once. */
export function onceAnswered(c: Context<AppEnv>, listener: () => void): void {
  const { outgoing } = bindingsOf(c)
  if (outgoing) outgoing.once('close', listener)
  else listener()
}

/** How a body comes in and goes, for the bounds on what is in memory. */
interface BodyReading {
  arrived(numBytes: number): void
  /** Bytes that are no longer in memory. */
  dropped(numBytes: number): void
  /** All of it is read and parsed. */
  parsed(): void
}

/** The sockets' side of the request; nothing where there is no socket. */
export function bindingsOf(c: Context<AppEnv>): Partial<HttpBindings> {
  // Hono leaves out what it was not given.
  const bindings: Partial<HttpBindings> | undefined = c.env
  return bindings ?? {}
}

export interface AppEnv {
  readonly Bindings: Partial<HttpBindings>
  readonly Variables: {
    /** Its row of the table of routes; null: no route is at its method and path. */
    route: Route | null | undefined
    /** The request's trace, open. Routes without a recorded span have one too: it knows the ids. */
    trace: RequestTrace
    /** The response id (cmpl-, chatcmpl-, req-), also in X-Request-Id unless the caller sent one. */
    requestId: string
    caller: Caller
    /** The caller is a browser that signed in. */
    isSignedIn: boolean | undefined
    /** Gives back the place that admission took; idempotent. */
    admitted: () => void
    /** Told how the body comes in, on routes that are admitted. */
    bodyReading: BodyReading | undefined
    /** A client that asked with Expect: 100-continue was told to send its body. */
    isBodyInvited: boolean | undefined
    /** What the thread does from now on is this request's work: for the watch over the event loop. */
    atWork: (() => void) | undefined
    /** Charges the caller's key for the tokens that the request used. */
    charge: ((tokens: number) => void) | undefined
    /** The handler answered with a stream and closes the trace itself. */
    isStreaming: boolean
  }
}
