/** The log of one request: its lines carry its ids, and the first of them are kept for its trace's page. */
import { type RequestScope, currentRequest } from './context.ts'
import type { Log, LogEvent, LogFields, LogLevel } from './log.ts'

/** Bound of the log lines a trace keeps for its page. */
const MAX_LINES = 64
const MAX_CHARACTERS = 32_768

/** Writes log lines with the request's `trace_id` and `span_id`, and keeps the first ones for the trace page. */
export class RequestLog implements Log {
  /** As they were written. */
  readonly lines: string[] = []
  readonly #request: RequestScope & { run<T>(fn: () => T): T }
  readonly #log: Log
  #numCharacters = 0

  constructor(request: RequestScope & { run<T>(fn: () => T): T }, log: Log) {
    this.#request = request
    this.#log = log
  }

  readonly trace = (event: LogEvent, fields?: LogFields): void => this.#write('trace', event, fields)
  readonly debug = (event: LogEvent, fields?: LogFields): void => this.#write('debug', event, fields)
  readonly info = (event: LogEvent, fields?: LogFields): void => this.#write('info', event, fields)
  readonly warn = (event: LogEvent, fields?: LogFields): void => this.#write('warn', event, fields)
  readonly error = (event: LogEvent, fields?: LogFields): void => this.#write('error', event, fields)
  readonly fatal = (event: LogEvent, fields?: LogFields): void => this.#write('fatal', event, fields)

  /** Keeps a written line. */
  keep(line: string): void {
    if (this.lines.length >= MAX_LINES || this.#numCharacters + line.length > MAX_CHARACTERS) return
    this.lines.push(line)
    this.#numCharacters += line.length
  }

  #write(level: LogLevel, event: LogEvent, fields?: LogFields): void {
    // The stage that writes names the span; outside the request's own context (callbacks), the root does.
    if (currentRequest() === this.#request) this.#log[level](event, fields)
    else this.#request.run(() => this.#log[level](event, fields))
  }
}
