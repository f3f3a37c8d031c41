/** The log of one request: its lines carry the request's ids, and the first of them are kept for the trace page. */
import { type RequestScope, currentRequest } from './context.ts'
import { createLog, type Log, type LogEvent } from './log.ts'

/** Limits of the log lines that a trace keeps. */
const MAX_LINES = 64
const MAX_CHARACTERS = 32_768

export interface RequestLog extends Log {
  /** The first lines, as they were written. */
  readonly lines: readonly string[]
  /** Keeps a written line, if there is room. */
  keep(line: string): void
}

/** Creates the log of a request on top of the server's log. */
export function createRequestLog(request: RequestScope & { run(fn: () => void): void }, log: Log): RequestLog {
  const lines: string[] = []
  let numCharacters = 0
  return {
    ...createLog<LogEvent>((level, event, fields) => {
      // A line names the span of the stage that writes it. A callback runs in no stage: its lines name the root.
      if (currentRequest() === request) log[level](event, fields)
      else request.run(() => log[level](event, fields))
    }),
    lines,
    keep(line) {
      if (lines.length >= MAX_LINES || numCharacters + line.length > MAX_CHARACTERS) return
      lines.push(line)
      numCharacters += line.length
    },
  }
}
