/**
 * JSON log lines on stdout and in a file. A line has a constant event name as `msg`, redacted fields, and the trace_id and span_id of
 * the request that wrote it.
 */
import { trace as traceApi } from '@opentelemetry/api'
import { destination, type DestinationStream, type Logger, pino } from 'pino'
import { activeContext, currentRequest } from './context.ts'
import { LogFile } from './log-file.ts'
import { createLog, type Log, type LogEvent, type LogLevel } from './log.ts'
import { redact } from './redact.ts'

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
  /** Resolves when all lines so far have been handed to the operating system. */
  flush(): Promise<void>
  close(): void
}

/** Opens stdout and the log file. If the file cannot be opened, a line on stdout says so, and no file is written. */
export function createLogging(options: LoggingOptions): Logging {
  const stdout = options.stream ?? openStdout()
  let file: LogFile | null = null
  let fileError: unknown = null
  let attached: ((line: string) => void) | null = null
  if (options.file !== null && options.level !== 'silent') {
    try {
      file = new LogFile({
        path: options.file,
        ...(options.rotateBytes === undefined ? {} : { maxBytes: options.rotateBytes }),
        onError: (error) => log.warn('log.file_failed', { path: options.file, error }),
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
        stdout.write(line)
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
  return {
    log,
    attach(write) {
      attached = write
    },
    async flush() {
      await file?.flush()
      if ('flush' in stdout && typeof stdout.flush === 'function') {
        await new Promise<void>((resolve) => (stdout as ReturnType<typeof destination>).flush(() => resolve()))
      }
    },
    close() {
      process.off('exit', onExit)
      file?.close()
    },
  }
}

/** stdout, written without blocking the event loop. A closed pipe must not end the server. */
function openStdout(): DestinationStream {
  const stream = destination({ fd: 1, sync: false })
  stream.on('error', () => {})
  process.once('exit', () => {
    try {
      stream.flushSync()
    } catch {
      // Not opened yet, or closed by its reader.
    }
  })
  return stream
}

function requestFields(): object {
  const context = activeContext()
  const request = currentRequest(context)
  if (!request) return {}
  const span = traceApi.getSpanContext(context)
  return { trace_id: request.traceId, span_id: span?.spanId ?? request.spanId }
}
