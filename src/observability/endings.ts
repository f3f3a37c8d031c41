/** The table of endings: every way a request can end. The finaliser, the tests and the docs read these rows. */

export type EndingName =
  | 'success'
  | 'validation'
  | 'unauthorized'
  | 'refused'
  | 'unavailable'
  | 'client_disconnect'
  | 'closed_early'
  | 'deadline'
  | 'engine_error'
  | 'device_lost'
  | 'exception'
  | 'shutdown'
  | 'leak'

/** Stands for the error's stable code, or for the status if the error has no code. */
export const ERROR_CODE = '(code)'

/** Name of the last log line of a request. */
type EndLine = 'response.sent' | 'request.refused' | 'request.aborted' | 'request.failed'

export interface EndingRow {
  readonly ending: EndingName
  readonly path: string
  /** Before the response's headers, or in the stream (200 was sent). */
  readonly phase: 'before headers' | 'in the stream'
  /** Statuses that the client may see; empty: no answer was sent. */
  readonly sent: readonly number[]
  /** http.status_code, if it differs from the status sent. */
  readonly statusCode: number | null
  readonly spanStatus: 'unset' | 'error'
  /** error.type; ERROR_CODE stands for the error's own code. */
  readonly errorType: string | null
  /** Refused before it was served. The root then has no token counts, so llm.tokens.out=0 finds anomalies and no refusals. */
  readonly isRefusal: boolean
  readonly line: EndLine
  readonly event: 'request.departed' | 'request.aborted'
  readonly reason: string | null
  readonly tail: 'body' | '[DONE]' | 'error frame, [DONE]' | 'none'
}

const before = { phase: 'before headers', tail: 'body' } as const
const stream = { phase: 'in the stream', sent: [200] } as const
/** No answer is sent. */
const silent = { phase: 'before headers', sent: [], tail: 'none' } as const

const departed = {
  spanStatus: 'unset',
  errorType: null,
  event: 'request.departed',
  reason: null,
  statusCode: null,
  isRefusal: false,
  line: 'response.sent',
} as const
const failed = {
  event: 'request.aborted',
  spanStatus: 'error',
  statusCode: null,
  isRefusal: false,
  line: 'request.failed',
} as const
const refused = {
  event: 'request.aborted',
  spanStatus: 'unset',
  errorType: ERROR_CODE,
  statusCode: null,
  isRefusal: true,
  line: 'request.refused',
} as const
const left = { ...failed, line: 'request.aborted' } as const
const because = (code: string) => ({ errorType: code, reason: code })

/** Both phases of an ending in which the server fails a request. */
const failure = (ending: EndingName, path: string, sent: readonly number[]): readonly EndingRow[] => [
  { ending, path, ...failed, ...before, sent, ...because(ending) },
  { ending, path: `${path}, in the stream`, ...failed, ...stream, ...because(ending), tail: 'error frame, [DONE]' },
]

export const ENDINGS: readonly EndingRow[] = [
  { ending: 'success', path: 'success', ...departed, ...before, sent: [200, 202] },
  { ending: 'success', path: 'success, streamed', ...departed, ...stream, tail: '[DONE]' },
  {
    ending: 'validation',
    path: 'validation',
    ...refused,
    ...before,
    sent: [400, 404, 405, 406, 408, 409, 411, 413, 415, 422, 431, 501],
    reason: 'validation',
  },
  { ending: 'unauthorized', path: 'auth', ...refused, ...before, sent: [401, 403, 429], reason: 'unauthorized' },
  { ending: 'refused', path: 'refused: queue full', ...refused, ...before, sent: [429], reason: 'overloaded' },
  {
    ending: 'unavailable',
    path: 'refused: draining, loading',
    ...refused,
    ...before,
    sent: [503],
    spanStatus: 'error',
    ...because('overloaded'),
  },
  {
    ending: 'client_disconnect',
    path: 'client gone before headers',
    ...left,
    ...silent,
    statusCode: 499,
    ...because('client_disconnect'),
  },
  {
    ending: 'client_disconnect',
    path: 'client gone in the stream',
    ...left,
    ...stream,
    ...because('client_disconnect'),
    tail: 'none',
  },
  {
    ending: 'closed_early',
    path: 'consumer closed the generator early (`return()`)',
    ...left,
    ...stream,
    ...because('closed_early'),
    tail: 'none',
  },
  ...failure('deadline', 'deadline', [504]),
  ...failure('engine_error', 'engine error', [500, 502, 503, 504]),
  ...failure('device_lost', 'device lost', [500, 503]),
  ...failure('exception', 'write failure, uncaught', [500]),
  ...failure('shutdown', 'shutdown bound passed', [503]),
  { ending: 'shutdown', path: 'process ended before an answer', ...failed, ...silent, ...because('shutdown') },
  { ending: 'exception', path: 'process crashed', ...failed, ...silent, ...because('exception') },
  { ending: 'leak', path: 'watchdog', ...failed, ...silent, errorType: 'span_leak', reason: 'leak' },
]

/**
 * The row of an ending for the status that was sent (null: none). For an unexpected status it is the ending's first row, so that
 * every request can be closed.
 */
export function endingRow(ending: EndingName, status: number | null): EndingRow {
  const rows = ENDINGS.filter((row) => row.ending === ending)
  const exact = rows.find((row) =>
    status === null || status === 499 ? row.sent.length === 0 : row.sent.includes(status),
  )
  const first = exact ?? rows[0]
  if (!first) throw new Error(`table of endings: no row for ${ending}`)
  return first
}

/** What decides the log level of a request. Probes are frequent and would hide the lines of other requests. */
interface Logged {
  readonly kind: 'generation' | 'retrieval' | 'other'
  readonly isProbe?: boolean
}

/** Level of the first line. Requests of kind `other` have only a last line at level info. */
export const firstLineLevel = ({ kind }: Logged): 'debug' | 'info' => (kind === 'other' ? 'debug' : 'info')

/** Level of the last line. */
export function lastLineLevel(row: EndingRow, { kind, isProbe = false }: Logged): 'debug' | 'info' | 'warn' | 'error' {
  if (row.line === 'request.failed') return 'error'
  // A 503 is the expected answer to a probe while the model loads.
  if (isProbe && (row.ending === 'success' || row.ending === 'unavailable')) return 'debug'
  return row.ending === 'unavailable' && kind !== 'other' ? 'warn' : 'info'
}
