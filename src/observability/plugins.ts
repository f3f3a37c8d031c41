/** `--plugin FILE`: loads subscribers from outside this package (docs/extending-traces.md). */
import { closeSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { foundInstead, openFileSync } from '../regular-file.ts'
import type { Tracer } from '@opentelemetry/api'
import type { EngineSubscriber } from '../engine/events.ts'
import { createLog, type Log, type LogEvent, type LogOf } from './log.ts'
import type { RequestTrace } from './request-trace.ts'
import type { SpanRegistry } from './span-registry.ts'

/** A log that accepts a plugin's own event names, such as acme.done. Its fields are redacted like all others. */
type PluginLog = LogOf<string>

const EVENT_NAME = /^[a-z][a-z0-9_]{0,63}(\.[a-z0-9_]{1,64}){1,4}$/

/** The log for plugins. A name made at run time could contain content, so anything that is not a plain name becomes plugin.event. */
export const pluginLog = (log: Log): PluginLog =>
  createLog((level, event, fields) => log[level](EVENT_NAME.test(event) ? (event as LogEvent) : 'plugin.event', fields))

/** What a plugin uses to add its own spans and log lines. */
export interface SubscriberHost {
  /** Starts spans in a separate scope, which the contract's validator ignores; null: tracing is off. */
  readonly tracer: Tracer | null
  /** Open spans by (request id, name): the possible parents. */
  readonly registry: SpanRegistry
  /** For lines that belong to no request. A request's own log is `find(id)?.log`. */
  readonly log: PluginLog
  /** The request's trace until it is closed. `hold()` keeps it open; `time()` converts the times of engine events. */
  find(requestId: string): RequestTrace | undefined
  /** Declares attributes of the plugin's spans that are always exported as doubles. Otherwise 1.0 is exported as an integer. */
  declareDoubles(names: readonly string[]): void
  /** Runs work in the background, in the current request's context. The trace stays open until it ends; a failure is logged. */
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
