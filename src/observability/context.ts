/**
 * The request that the running code works for, carried by AsyncLocalStorage, and its stages. Generators, stream pulls, event listeners
 * and worker messages run in the context of their caller, or in none: they need `runIn`. Retrieval imports only this module.
 */
import { type Context, context as contextApi, createContextKey, ROOT_CONTEXT } from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import type { SpanAttributes, StageName } from './contract.ts'
import type { Log } from './log.ts'
import type { RequestSpans } from './span-registry.ts'

/** What code that works for a request can use. */
export interface RequestScope {
  readonly traceId: string
  /** Span id of http.handler. */
  readonly spanId: string
  readonly log: Log
  /** The request's spans, open and ended; null: none are recorded. */
  readonly spans: RequestSpans | null
  openStage<N extends StageName>(name: N, parent: Context, attributes?: SpanAttributes<N>): OpenStage<N> | null
  readonly calls: { start(name: string, attributes: ClientAttributes, parent: Context): ClientCall }
  /** Keeps the trace open until the returned function is called. */
  hold(): () => void
  /** Keeps a written log line for the trace's page. */
  addLogLine(line: string): void
}

const REQUEST_KEY = createContextKey('miniserve.request')
const PROBE_KEY = createContextKey('miniserve.probe')

/** Whether the application has its own context manager. A process has only one, and an existing one stays in use. */
function hasContextManager(): boolean {
  const probe = ROOT_CONTEXT.setValue(PROBE_KEY, true)
  return contextApi.with(probe, () => contextApi.active().getValue(PROBE_KEY) === true)
}

/** Whether the context manager in use belongs to the application. */
export const usesForeignContextManager = hasContextManager()
if (!usesForeignContextManager) contextApi.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())

export const withRequest = (context: Context, request: RequestScope): Context => context.setValue(REQUEST_KEY, request)

export const activeContext = (): Context => contextApi.active()

export const runIn = <T>(context: Context, fn: () => T): T => contextApi.with(context, fn)

/** The request of a context, by default of the running code. */
export function currentRequest(context: Context = activeContext()): RequestScope | undefined {
  return context.getValue(REQUEST_KEY) as RequestScope | undefined
}

/** The span of a stage while it runs. Outside a request, and after its response, it ignores all values. */
interface StageSpan<N extends StageName> {
  /** Whether content is recorded (MINISERVE_CAPTURE_CONTENT=true). */
  readonly capturesContent: boolean
  /** Sets attributes of the contract. Values of the wrong type are omitted and counted. */
  set(attributes: SpanAttributes<N>): void
}

/** A stage that does not end with a function, such as a stream. */
export interface OpenStage<N extends StageName> extends StageSpan<N> {
  /** Ends the stage; later calls do nothing. */
  end(attributes?: SpanAttributes<N>): void
  /** Ends the stage as failed; later calls do nothing. */
  fail(error: unknown): void
  /** Runs a function inside the stage's context. */
  run<T>(fn: () => T): T
}

/** Attributes of a call to another service, named by OpenTelemetry's conventions. Never content. */
export type ClientAttributes = Readonly<Record<string, string | number | undefined>>

/** A running call to another service. */
export interface ClientCall {
  /** Headers with the W3C trace context. */
  readonly headers: Readonly<Record<string, string>>
  /** Runs the call below its span. */
  run<T>(fn: () => T): T
  /** Ends the span. `error` is a stable code, null for success. Later calls do nothing. */
  end(error: string | null, attributes?: ClientAttributes): void
}

const NO_STAGE: OpenStage<StageName> = { capturesContent: false, set() {}, end() {}, fail() {}, run: (fn) => fn() }

/** Opens a stage below the current one. The caller ends it; if it does not, the stage ends with its request. */
export function openStage<N extends StageName>(name: N, attributes?: SpanAttributes<N>): OpenStage<N> {
  const context = activeContext()
  return currentRequest(context)?.openStage(name, context, attributes) ?? NO_STAGE
}

/**
 * Runs a function as a stage of the current request. The stage's span is open until the function, or the promise it returns, is done.
 * It is the parent of stages inside, and ends as failed if the function throws. Outside a request the function just runs.
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
 * Runs work that the response does not wait for, in the request's context. The request's trace stays open until the work is done.
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

/** Runs a call to another service as a CLIENT span of the current request; outside a request it just runs. */
export async function clientCall<T>(name: string, attributes: ClientAttributes, fn: () => Promise<T>): Promise<T> {
  const context = activeContext()
  const call = currentRequest(context)?.calls.start(name, attributes, context)
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
