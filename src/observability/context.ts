/**
 * The request a piece of code works for, carried by AsyncLocalStorage, and the helpers that keep it where JavaScript loses it:
 * generator bodies, stream pulls, event listeners and worker messages run in the context of whoever calls them, or in none.
 * The only module of this folder that retrieval and other leaves need.
 */
import { type Context, createContextKey } from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import type { SpanAttributes, StageName } from './contract.ts'
import type { Log, LogFields } from './logging.ts'
import type { RequestTrace } from './request-trace.ts'

/** The one context manager of the process; tracing.ts registers it, so that OpenTelemetry's own API sees the same context. */
export const contextManager = new AsyncLocalStorageContextManager().enable()

const REQUEST_KEY = createContextKey('miniserve.request')

export const withRequest = (context: Context, trace: RequestTrace): Context => context.setValue(REQUEST_KEY, trace)

export const activeContext = (): Context => contextManager.active()

export const runIn = <T>(context: Context, fn: () => T): T => contextManager.with(context, fn)

/** The request of a context; of the running code when none is given. */
export function currentRequest(context: Context = activeContext()): RequestTrace | undefined {
  return context.getValue(REQUEST_KEY) as RequestTrace | undefined
}

/** The span of a stage while it runs. Outside a request, and after its response, it takes values and does nothing. */
export interface StageSpan<N extends StageName> {
  /** Values of the contract's table; those of a wrong type are left out and counted. */
  set(attributes: SpanAttributes<N>): void
}

/** A stage whose end is told apart from its start: a stream's. */
export interface OpenStage<N extends StageName> extends StageSpan<N> {
  /** Ends the stage; later calls do nothing. */
  end(attributes?: SpanAttributes<N>): void
  /** Ends the stage as failed; later calls do nothing. */
  fail(error: unknown): void
  /** Runs a function inside the stage's context. */
  run<T>(fn: () => T): T
}

const NO_STAGE: OpenStage<StageName> = { set() {}, end() {}, fail() {}, run: (fn) => fn() }

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

/** Binds a function to the current context, for event listeners and callbacks. */
export function bindFunction<A extends readonly unknown[], R>(fn: (...args: A) => R): (...args: A) => R {
  const context = activeContext()
  return (...args) => runIn(context, () => fn(...args))
}

/** An iterator whose body always runs in the context of this call, whoever asks for the next value. */
export function bindIterator<T>(iterator: AsyncIterator<T>): AsyncIterableIterator<T> {
  const context = activeContext()
  const bound: AsyncIterableIterator<T> = {
    next: () => runIn(context, () => iterator.next()),
    return: (value?: unknown) =>
      runIn(context, () => iterator.return?.(value) ?? Promise.resolve({ done: true as const, value })),
    throw: (error?: unknown) =>
      runIn(context, async () => {
        if (iterator.throw) return iterator.throw(error)
        throw error
      }),
    [Symbol.asyncIterator]: () => bound,
  }
  return bound
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

type LogCall = (event: string, fields?: LogFields) => void
const logCall =
  (level: keyof Log): LogCall =>
  (event, fields) =>
    currentRequest()?.log[level](event, fields)

/** Log lines of the current request; outside one nothing is written. Event names are constants, fields pass the redaction. */
export const log: Log = {
  trace: logCall('trace'),
  debug: logCall('debug'),
  info: logCall('info'),
  warn: logCall('warn'),
  error: logCall('error'),
  fatal: logCall('fatal'),
}
