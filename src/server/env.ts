/** What the middleware leaves for the handlers. */
import type { HttpBindings } from '@hono/node-server'
import type { RequestTrace } from '../observability/request-trace.ts'
import type { Caller } from './keys.ts'

export interface AppEnv {
  readonly Bindings: Partial<HttpBindings>
  readonly Variables: {
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
    bodyReading: { readonly arrived: (numBytes: number) => void; readonly parsed: () => void } | undefined
    /** The handler answered with a stream and closes the trace itself. */
    isStreaming: boolean
  }
}
