/**
 * JSON log lines on stdout and in a file. A line has a constant event name as `msg`, redacted fields, and the trace_id and span_id of
 * the request that wrote it.
 */
import { trace as traceApi } from '@opentelemetry/api'
import { type DestinationStream, type Logger, pino } from 'pino'
import { activeContext, currentRequest } from './context.ts'
import { LineWriter } from './line-writer.ts'
import { LogFile } from './log-file.ts'
import { createLog, type Log, type LogEvent, type LogLevel } from './log.ts'
import { redact } from './redact.ts'

const STDOUT = 1

export interface LoggingOptions {
  readonly level: LogLevel | 'silent'
  /** null: no file. */
  readonly file: string | null
  /** Where lines go besides the file; stdout when absent. */
  readonly stream?: DestinationStream
  readonly rotateBytes?: number
}

export interface Logging {
  readonly log: Log
  /** Passes all further lines to `write` as well. */
  attach(write: (line: string) => void): void
  /** Lines dropped because stdout or the file could not take them. */
  dropped(): { readonly stdout: number; readonly file: number }
  /** Resolves when the file has all lines so far, or could not take them. The reader of stdout is not waited for. */
  flush(): Promise<void>
  close(): void
}

/** Opens stdout and the log file. If the file cannot be opened, a line on stdout says so, and no file is written. */
export function createLogging(options: LoggingOptions): Logging {
  // A closed pipe must not end the server.
  const terminal = options.stream ? null : new LineWriter({ descriptor: () => STDOUT, onError: () => {} })
  const stdout = options.stream ?? terminal
  let file: LogFile | null = null
  let fileError: unknown = null
  let attached: ((line: string) => void) | null = null
  if (options.file !== null && options.level !== 'silent') {
    try {
      file = new LogFile({
        path: options.file,
        ...(options.rotateBytes === undefined ? {} : { maxBytes: options.rotateBytes }),
        onError: (error) => log.warn('log.file_failed', { path: options.file, error }),
        onDropped: (dropped) => log.warn('log.lines_dropped', { path: options.file, dropped }),
      })
    } catch (error) {
      fileError = error
    }
  }
  const root: Logger = pino(
    {
      level: options.level,
      base: null,
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }), log: redact, bindings: redact },
      mixin: requestFields,
      // The request's ids win over a field of the same name.
      mixinMergeStrategy: (fields, ids) => ({ ...fields, ...ids }),
    },
    {
      write(line: string) {
        stdout?.write(line)
        file?.write(line)
        attached?.(line)
        currentRequest()?.addLogLine(line.trimEnd())
      },
    },
  )
  const log = createLog<LogEvent>((level, event, fields = {}) => {
    if (root.isLevelEnabled(level)) root[level](fields, event)
  })
  if (fileError) log.warn('log.file_unavailable', { path: options.file, error: fileError })
  const onExit = () => file?.close()
  process.once('exit', onExit)
  // After the file, which may have a last line for stdout.
  if (terminal) process.once('exit', () => terminal.close())
  return {
    log,
    attach(write) {
      attached = write
    },
    dropped: () => ({ stdout: terminal?.numDropped ?? 0, file: file?.numDropped ?? 0 }),
    async flush() {
      await file?.flush()
    },
    close() {
      process.off('exit', onExit)
      file?.close()
    },
  }
}

function requestFields(): object {
  const context = activeContext()
  const request = currentRequest(context)
  if (!request) return {}
  const span = traceApi.getSpanContext(context)
  return { trace_id: request.traceId, span_id: span?.spanId ?? request.spanId }
}
