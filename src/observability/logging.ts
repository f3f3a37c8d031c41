/**
 * JSON log lines on stdout and in a file: a constant event name as `msg`, fields beside it, trace_id and span_id of the request
 * that wrote it. Fields pass the redaction; so do child bindings.
 */
import { trace as traceApi } from '@opentelemetry/api'
import { destination, type DestinationStream, type Logger, pino } from 'pino'
import { activeContext, currentRequest } from './context.ts'
import { LogFile } from './log-file.ts'
import type { Log, LogEvent, LogFields, LogLevel } from './log.ts'
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
  /** Lines go to `write` as well, from now on. */
  attach(write: (line: string) => void): void
  /** Resolves when the lines so far are with the operating system. */
  flush(): Promise<void>
  close(): void
}

/** Opens stdout and the log file. A file that cannot be opened is reported on stdout and left out. */
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
  const call =
    (level: LogLevel) =>
    (event: LogEvent, fields: LogFields = {}) => {
      if (root.isLevelEnabled(level)) root[level](fields, event)
    }
  const log: Log = {
    trace: call('trace'),
    debug: call('debug'),
    info: call('info'),
    warn: call('warn'),
    error: call('error'),
    fatal: call('fatal'),
  }
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

/** stdout, written without blocking the event loop. A reader that went away (a closed pipe) must not end the server. */
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
