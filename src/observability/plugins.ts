/** `--plugin FILE`: subscribers to the engine's events from outside this package (docs/extending-traces.md). */
import { closeSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { foundInstead, openFileSync } from '../regular-file.ts'
import type { Tracer } from '@opentelemetry/api'
import type { EngineSubscriber } from '../engine/events.ts'
import type { Log, LogEvent, LogFields, LogLevel } from './log.ts'
import type { RequestTrace } from './request-trace.ts'
import type { SpanRegistry } from './span-registry.ts'

/** A log that takes names of a plugin's own, such as acme.done; fields pass the redaction as all do. */
type PluginLog = Readonly<Record<LogLevel, (event: string, fields?: LogFields) => void>>

const EVENT_NAME = /^[a-z][a-z0-9_]{0,63}(\.[a-z0-9_]{1,64}){1,4}$/

/** A name made at run time could carry content: what is no plain name is written as plugin.event. */
export function pluginLog(log: Log): PluginLog {
  const call = (level: LogLevel) => (event: string, fields?: LogFields) =>
    log[level](EVENT_NAME.test(event) ? (event as LogEvent) : 'plugin.event', fields)
  return {
    trace: call('trace'),
    debug: call('debug'),
    info: call('info'),
    warn: call('warn'),
    error: call('error'),
    fatal: call('fatal'),
  }
}

/** What a subscriber that adds spans or log lines of its own works with. */
export interface SubscriberHost {
  /** Starts spans in a scope of their own, which the contract's validator leaves alone; null: tracing is off. */
  readonly tracer: Tracer | null
  /** Open spans by (request id, name): where to nest. */
  readonly registry: SpanRegistry
  /** Lines of no request; those of a request are `find(id)?.log`'s. */
  readonly log: PluginLog
  /** The request's trace until it is closed: `hold()` keeps it open, `time()` gives span times of engine events. */
  find(requestId: string): RequestTrace | undefined
  /** Names attributes of the plugin's own spans whose numbers leave as doubles, whole ones too: else 1.0 leaves as an integer. */
  declareDoubles(names: readonly string[]): void
  /** Runs work in the background, in the current request's context. It keeps the trace open; a failure is logged. */
  spawn(fn: () => Promise<unknown>): Promise<void>
}

/** A plugin that cannot be used: names the file, what was expected and what was found. */
class PluginError extends Error {
  override readonly name = 'PluginError'
}

/**
 * Loads plugins in order.
 * @throws PluginError for the first that cannot be used.
 */
export async function loadPlugins(
  files: readonly string[],
  host: SubscriberHost,
): Promise<readonly EngineSubscriber[]> {
  const subscribers: EngineSubscriber[] = []
  for (const file of files) subscribers.push(await loadPlugin(file, host))
  return subscribers
}

async function loadPlugin(file: string, host: SubscriberHost): Promise<EngineSubscriber> {
  try {
    closeSync(openFileSync(file))
  } catch (error) {
    throw new PluginError(`--plugin ${file}: expected a JavaScript file, found ${foundInstead(error)}`, {
      cause: error,
    })
  }
  let plugin: unknown
  try {
    const module: unknown = await import(pathToFileURL(file).href)
    plugin = typeof module === 'object' && module !== null && 'default' in module ? module.default : undefined
    if (typeof plugin === 'function') plugin = await (plugin as (given: SubscriberHost) => unknown)(host)
  } catch (error) {
    throw new PluginError(
      `--plugin ${file}: cannot be loaded: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    )
  }
  if (isSubscriber(plugin)) return plugin
  const found = plugin === undefined ? 'no default export' : `a default export of type ${typeof plugin}`
  throw new PluginError(
    `--plugin ${file}: expected a default export {name, onEvent(event)} or a function that returns one, found ${found}`,
  )
}

const isSubscriber = (value: unknown): value is EngineSubscriber =>
  typeof value === 'object' &&
  value !== null &&
  'name' in value &&
  typeof value.name === 'string' &&
  'onEvent' in value &&
  typeof value.onEvent === 'function'
