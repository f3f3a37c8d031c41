/** The parts of a log line: a level, a constant event name and fields of known names. */

const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

/** Every event name. Variable parts go into fields, so a name never contains content. */
export type LogEvent =
  | 'server.listening'
  | 'server.ready'
  | 'server.metrics_ready'
  | 'server.draining'
  | 'server.stopped'
  | 'process.crashed'
  | 'event_loop.stalled'
  | 'model.loaded'
  | 'model.unloaded'
  | 'model.load_failed'
  | 'model.notice'
  | 'model.eos_ignored'
  | 'model.no_end'
  | 'key.refused'
  | 'keys.reloaded'
  | 'keys.reload_failed'
  | 'sign_in.refused'
  | 'engine.problem'
  | 'engine.recovered'
  | 'kv.tier'
  | 'rag.worker_died'
  | 'rag.rerank_skipped'
  | 'request.received'
  | 'input.tokenized'
  | 'rag.retrieved'
  | 'prefill.done'
  | 'decode.done'
  | 'response.sent'
  | 'request.refused'
  | 'request.aborted'
  | 'request.failed'
  | 'work.failed'
  | 'plugin.event'
  | 'plugin.failed'
  | 'trace.leak'
  | 'trace.breach'
  | 'trace.finish_failed'
  | 'trace.close_failed'
  | 'metrics.failed'
  | 'telemetry.problem'
  | 'telemetry.shared'
  | 'telemetry.stopped'
  | 'log.file_failed'
  | 'log.file_unavailable'
  | 'log.lines_dropped'

/**
 * Names of fields that may contain text. Other fields are written only if they are numbers, booleans or attributes of the
 * span contract, so new text fields are excluded by default.
 */
export const TEXT_FIELDS = [
  'trace_id',
  'span_id',
  'name',
  'method',
  'route',
  'request_id',
  'caller_request_id',
  'finish_reasons',
  'reason',
  'error',
  'error_type',
  'error_code',
  'param',
  'url',
  'path',
  'model',
  'device',
  'worker',
  'where',
  'detail',
  'notice',
  'address',
  'ids',
  'span',
  'attribute',
  'plugin',
  'shared',
  'operation',
  'outcome',
  'upstream',
  'key_id',
  'file',
  'code',
  'tier',
] as const

export type LogFields = Readonly<Record<string, unknown>>

/** A log whose event names are of type `Event`. */
export type LogOf<Event> = Readonly<Record<LogLevel, (event: Event, fields?: LogFields) => void>>
export type Log = LogOf<LogEvent>

/** A log that passes every call to `write`, with its level. */
export const createLog = <Event>(write: (level: LogLevel, event: Event, fields?: LogFields) => void): LogOf<Event> =>
  Object.fromEntries(
    LOG_LEVELS.map((level) => [level, (event: Event, fields?: LogFields) => write(level, event, fields)]),
  ) as unknown as LogOf<Event>
