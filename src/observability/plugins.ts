/** `--plugin FILE`: subscribers to the engine's events from outside this package (docs/extending-traces.md). */
import { pathToFileURL } from 'node:url'
import type { Tracer } from '@opentelemetry/api'
import type { EngineSubscriber } from '../engine/events.ts'
import type { Log } from './logging.ts'
import type { RequestTrace } from './request-trace.ts'
import type { SpanRegistry } from './span-registry.ts'

/** What a subscriber that adds spans or log lines of its own works with. */
export interface SubscriberHost {
  /** Starts spans in a scope of their own, which the contract's validator leaves alone; null: tracing is off. */
  readonly tracer: Tracer | null
  /** Open spans by (request id, name): where to nest. */
  readonly registry: SpanRegistry
  readonly log: Log
  /** The request's trace until it is closed: `hold()` keeps it open, `time()` gives span times of engine events. */
  find(requestId: string): RequestTrace | undefined
}

/** A plugin's default export: a subscriber, or a function that makes one. */
export type SubscriberPlugin =
  EngineSubscriber | ((host: SubscriberHost) => EngineSubscriber | Promise<EngineSubscriber>)

/** A plugin that cannot be used: names the file, what was expected and what was found. */
export class PluginError extends Error {
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
