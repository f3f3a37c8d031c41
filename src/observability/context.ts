/**
 * The request a piece of code works for, carried by AsyncLocalStorage, and the helpers that keep it where JavaScript loses it:
 * generator bodies, stream pulls, event listeners and worker messages run in the context of their caller, or in none.
 * The only module of this folder that retrieval and other leaves need.
 */
import { type Context, context as contextApi, createContextKey, ROOT_CONTEXT } from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import type { SpanAttributes, StageName } from './contract.ts'
import type { Log } from './log.ts'
import type { RequestSpans } from './span-registry.ts'

/** What code below a request may ask of it. */
export interface RequestScope {
  readonly traceId: string
  /** Span id of http.handler. */
  readonly spanId: string
  readonly log: Log
  /** Its spans, open and ended; null: none are recorded. */
  readonly spans: RequestSpans | null
  openStage<N extends StageName>(name: N, parent: Context, attributes?: SpanAttributes<N>): OpenStage<N> | null
  startClientCall(name: string, attributes: ClientAttributes, parent: Context): ClientCall
  /** Keeps the trace open until what it returns is called. */
  hold(): () => void
  /** Keeps a written log line for the trace's page. */
  addLogLine(line: string): void
}

const REQUEST_KEY = createContextKey('miniserve.request')
const PROBE_KEY = createContextKey('miniserve.probe')

/** A process has one context manager, which carries contexts for everybody. An application that brought its own keeps it. */
function hasContextManager(): boolean {
  const probe = ROOT_CONTEXT.setValue(PROBE_KEY, true)
  return contextApi.with(probe, () => contextApi.active().getValue(PROBE_KEY) === true)
}

/** Whether the context manager in use is an application's. */
export const usesForeignContextManager = hasContextManager()
if (!usesForeignContextManager) contextApi.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())

export const withRequest = (context: Context, request: RequestScope): Context => context.setValue(REQUEST_KEY, request)

export const activeContext = (): Context => contextApi.active()

export const runIn = <T>(context: Context, fn: () => T): T => contextApi.with(context, fn)

/** The request of a context; of the running code when none is given. */
export function currentRequest(context: Context = activeContext()): RequestScope | undefined {
  return context.getValue(REQUEST_KEY) as RequestScope | undefined
}

/** The span of a stage while it runs. Outside a request, and after its response, it takes values and does nothing. */
interface StageSpan<N extends StageName> {
  /** Content that is set is kept (MINISERVE_CAPTURE_CONTENT=true): else it need not be made. */
  readonly capturesContent: boolean
  /** Values of the contract's table; those of a wrong type are left out and counted. */
  set(attributes: SpanAttributes<N>): void
}

/** A stage that is ended separately from its start, such as a stream's. */
export interface OpenStage<N extends StageName> extends StageSpan<N> {
  /** Ends the stage; later calls do nothing. */
  end(attributes?: SpanAttributes<N>): void
  /** Ends the stage as failed; later calls do nothing. */
  fail(error: unknown): void
  /** Runs a function inside the stage's context. */
  run<T>(fn: () => T): T
}

/** Attributes of a call to another service, by OpenTelemetry's conventions. Never content. */
export type ClientAttributes = Readonly<Record<string, string | number | undefined>>

/** A call to another service while it runs. */
export interface ClientCall {
  /** W3C trace context for the call. */
  readonly headers: Readonly<Record<string, string>>
  /** Runs the call below its span. */
  run<T>(fn: () => T): T
  /** Ends the span; `error`: a stable code, null for success. Later calls do nothing. */
  end(error: string | null, attributes?: ClientAttributes): void
}

const NO_STAGE: OpenStage<StageName> = { capturesContent: false, set() {}, end() {}, fail() {}, run: (fn) => fn() }

/** Opens a stage's span below the running stage. The caller ends it; one left open is ended with its request. */
export function openStage<N extends StageName>(name: N, attributes?: SpanAttributes<N>): OpenStage<N> {
  const context = activeContext()
  return currentRequest(context)?.openStage(name, context, attributes) ?? NO_STAGE
}

/**
 * Runs a function as a stage of the current request: its span is open while the function (and the promise it returns) runs, is the
 * parent of stages inside it, and ends as failed when it throws. Outside a request the function just runs.
 */
export function stage<N extends StageName, T>(name: N, fn: (span: StageSpan<N>) => T): T
export function stage<N extends StageName, T>(name: N, attributes: SpanAttributes<N>, fn: (span: StageSpan<N>) => T): T
export function stage<N extends StageName, T>(
  name: N,
  attributesOrFn: SpanAttributes<N> | ((span: StageSpan<N>) => T),
  last?: (span: StageSpan<N>) => T,
): T {
  const fn = typeof attributesOrFn === 'function' ? attributesOrFn : last
  if (!fn) throw new TypeError(`stage ${name}: expected a function`)
  const span = openStage(name, typeof attributesOrFn === 'function' ? undefined : attributesOrFn)
  let result: T
  try {
    result = span.run(() => fn(span))
  } catch (error) {
    span.fail(error)
    throw error
  }
  if (!(result instanceof Promise)) {
    span.end()
    return result
  }
  return result.then(
    (value: unknown) => {
      span.end()
      return value
    },
    (error: unknown) => {
      span.fail(error)
      throw error
    },
  ) as T
}

/**
 * Work that the response does not wait for: it keeps the request's context, and the request's trace stays open until it is done.
 * A failure is logged; the promise always resolves.
 */
export function spawn(fn: () => Promise<unknown>): Promise<void> {
  const context = activeContext()
  const request = currentRequest(context)
  const release = request?.hold()
  const work = async () => {
    try {
      await fn()
    } catch (error) {
      request?.log.error('work.failed', { error })
    } finally {
      release?.()
    }
  }
  return runIn(context, work)
}

/** A stream whose source is pulled and cancelled in the context of this call. Chunk by chunk, nothing is read ahead. */
export function bindStream<T>(source: ReadableStream<T>): ReadableStream<T> {
  const context = activeContext()
  const reader = source.getReader()
  return new ReadableStream<T>(
    {
      pull: (controller) =>
        runIn(context, async () => {
          const { done, value } = await reader.read()
          if (done) controller.close()
          else controller.enqueue(value)
        }),
      cancel: (reason) => runIn(context, () => reader.cancel(reason)),
    },
    { highWaterMark: 0 },
  )
}

/** Runs a call to another service as a CLIENT span of the current request; outside a request it just runs. */
export async function clientCall<T>(name: string, attributes: ClientAttributes, fn: () => Promise<T>): Promise<T> {
  const context = activeContext()
  const call = currentRequest(context)?.startClientCall(name, attributes, context)
  try {
    const value = await (call ? call.run(fn) : fn())
    call?.end(null)
    return value
  } catch (error) {
    const code = typeof error === 'object' && error !== null && 'code' in error ? error.code : null
    call?.end(typeof code === 'string' ? code : error instanceof Error ? error.name : 'error')
    throw error
  }
}
