/** What the middleware passes to the handlers. */
import type { HttpBindings } from '@hono/node-server'
import type { Context } from 'hono'
import type { RequestTrace } from '../observability/request-trace.ts'
import type { AdmissionPlace } from './admission.ts'
import type { Caller } from './keys.ts'
import type { Route } from './routes.ts'

/** The address of the client, as the socket reports it. */
export const addressOf = (c: Context<AppEnv>): string => bindingsOf(c).incoming?.socket.remoteAddress ?? 'unknown'

/** Calls a function when the response has been sent or the connection is closed. Without a socket, at once. */
export function onceAnswered(c: Context<AppEnv>, listener: () => void): void {
  const { outgoing } = bindingsOf(c)
  if (outgoing) outgoing.once('close', listener)
  else listener()
}

/** The place that admission gave the request. @throws Error on a route without a pool, which must not read a body. */
export function placeOf(c: Context<AppEnv>): AdmissionPlace {
  const place = c.get('place')
  if (!place) throw new Error('the route has no admission pool, so it must not read a body')
  return place
}

/** Node's request and response; empty if there is no socket. */
export function bindingsOf(c: Context<AppEnv>): Partial<HttpBindings> {
  // Undefined for requests that were made with app.request().
  const bindings: Partial<HttpBindings> | undefined = c.env
  return bindings ?? {}
}

export interface AppEnv {
  readonly Bindings: Partial<HttpBindings>
  readonly Variables: {
    /** The row of ROUTES; null: no route has this method and path. */
    route: Route | null | undefined
    /** The request's open trace. Routes without a recorded span have one too, for the ids. */
    trace: RequestTrace
    /** The response id (cmpl-, chatcmpl-, req-), also in X-Request-Id unless the caller sent one. */
    requestId: string
    caller: Caller
    /** The caller is a browser that has signed in. */
    isSignedIn: boolean | undefined
    /** Its place, on routes with an admission pool. */
    place: AdmissionPlace | undefined
    /** A client with Expect: 100-continue was told to send its body. */
    isBodyInvited: boolean | undefined
    /** Tells the watch over the event loop that the thread now works for this request. */
    atWork: (() => void) | undefined
    /** Charges the caller's key for the tokens that the request used. */
    charge: ((tokens: number) => void) | undefined
    /** The handler answered with a stream and closes the trace itself. */
    isStreaming: boolean
  }
}
