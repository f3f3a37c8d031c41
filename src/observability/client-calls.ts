/** W3C trace context: the caller's span, and a request's own calls to other services as CLIENT spans with their headers. */
import {
  type Context,
  defaultTextMapGetter,
  type HrTime,
  ROOT_CONTEXT,
  type SpanContext,
  SpanKind,
  SpanStatusCode,
  trace as traceApi,
  type Tracer,
} from '@opentelemetry/api'
import { W3CTraceContextPropagator } from '@opentelemetry/core'
import { type ClientAttributes, type ClientCall, runIn } from './context.ts'
import type { OpenRequestInput } from './root-span.ts'

/** What a call needs from its request. */
interface Calling {
  readonly input: OpenRequestInput
  readonly traceId: string
  readonly spanId: string
  readonly isHeadSampled: boolean
  readonly isOpen: boolean
  readonly isRecorded: boolean
  readonly context: Context
  time(atMs: number): HrTime
}

/** A running call to another engine. */
interface UpstreamCall {
  readonly headers: Readonly<Record<string, string>>
  /** Sends the call in the context of its span, so that the spans of an HTTP library nest below it. */
  run<T>(send: () => T): T
  end(outcome: {
    readonly status: number | null
    readonly responseId: string | null
    readonly error: string | null
  }): void
}

const propagator = new W3CTraceContextPropagator()

/** The caller's span; null if the headers name none or are malformed. */
export function callerSpan(headers: OpenRequestInput['headers']): SpanContext | null {
  return traceApi.getSpanContext(propagator.extract(ROOT_CONTEXT, headers, defaultTextMapGetter)) ?? null
}

export const traceparentOf = ({ traceId, isHeadSampled }: Calling, spanId: string): string =>
  `00-${traceId}-${spanId}-${isHeadSampled ? '01' : '00'}`

/** Opens CLIENT spans below the current span of one request, and makes the headers for the called service. */
export class ClientCalls {
  readonly #request: Calling
  readonly #tracer: Tracer | null
  readonly #remote: SpanContext | null
  readonly #trustRemote: boolean

  /** `tracer` starts spans outside the contract; null: tracing is off. `remote`: the caller's span. */
  constructor(request: Calling, tracer: Tracer | null, remote: SpanContext | null, trustRemote: boolean) {
    this.#request = request
    this.#tracer = tracer
    this.#remote = remote
    this.#trustRemote = trustRemote
  }

  start(name: string, attributes: ClientAttributes, parent: Context): ClientCall {
    const request = this.#request
    const isRecorded = request.isOpen && request.isRecorded
    const span = isRecorded
      ? this.#tracer?.startSpan(
          name,
          { kind: SpanKind.CLIENT, startTime: request.time(performance.now()), attributes: { ...attributes } },
          parent,
        )
      : undefined
    return {
      headers: this.#headers(span?.spanContext().spanId ?? request.spanId),
      run: (fn) => runIn(span ? traceApi.setSpan(parent, span) : parent, fn),
      end: (error, more = {}) => {
        if (!span?.isRecording()) return
        span.setAttributes(error === null ? { ...more } : { ...more, 'error.type': error })
        if (error !== null) span.setStatus({ code: SpanStatusCode.ERROR, message: error })
        span.end(request.time(performance.now()))
      },
    }
  }

  /** A call to another engine: a CLIENT span below http.handler, and the parent of that engine's own spans. */
  startUpstream(url: string): UpstreamCall {
    const { hostname, port, protocol, pathname } = new URL(url)
    const call = this.start(
      `POST ${pathname}`,
      {
        'http.request.method': 'POST',
        'url.full': `${protocol}//${hostname}${port && `:${port}`}${pathname}`,
        // A URL has brackets around an IPv6 address.
        'server.address': hostname.replace(/^\[|\]$/g, ''),
        'server.port': Number(port) || (protocol === 'https:' ? 443 : 80),
      },
      this.#request.context,
    )
    return {
      headers: call.headers,
      run: call.run,
      end: ({ status, responseId, error }) =>
        call.end(error, {
          'http.response.status_code': status ?? undefined,
          'gen_ai.response.id': responseId?.slice(0, 128),
        }),
    }
  }

  /** Names a span of this server. With tracing off, the caller's own headers are passed on. */
  #headers(spanId: string): Readonly<Record<string, string>> {
    const request = this.#request
    const { traceparent, tracestate } = request.input.headers
    if (this.#tracer === null) {
      return this.#remote && traceparent ? { traceparent, ...(tracestate ? { tracestate } : {}) } : {}
    }
    const state = this.#trustRemote ? this.#remote?.traceState?.serialize() : undefined
    return { traceparent: traceparentOf(request, spanId), ...(state ? { tracestate: state } : {}) }
  }
}
