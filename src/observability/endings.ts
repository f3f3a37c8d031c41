/** The table of endings: every way a request can end, as data. One row drives the finaliser, the tests and the docs. */

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

/** error.type of refusals: the stable code of what was wrong, or the status where there is none. */
export const ERROR_CODE = '(code)'

/** Name of the last line of a request's story. */
type EndLine = 'response.sent' | 'request.refused' | 'request.aborted' | 'request.failed'

export interface EndingRow {
  readonly ending: EndingName
  readonly path: string
  /** Before the response's headers, or in the stream (200 was sent). */
  readonly phase: 'before headers' | 'in the stream'
  /** Statuses the client may see; empty: none was sent. */
  readonly sent: readonly number[]
  /** http.status_code; null: the status sent. */
  readonly statusCode: number | null
  readonly spanStatus: 'unset' | 'error'
  /** ERROR_CODE: the code of what was wrong. */
  readonly errorType: string | null
  /** Refused before it was served: its root carries no token counts, so that llm.tokens.out=0 finds anomalies and not refusals. */
  readonly isRefusal: boolean
  readonly line: EndLine
  readonly event: 'request.departed' | 'request.aborted'
  readonly reason: string | null
  readonly tail: 'body' | '[DONE]' | 'error frame, [DONE]' | 'none'
}

const aborted = { event: 'request.aborted' } as const
const failed = {
  ...aborted,
  spanStatus: 'error',
  statusCode: null,
  isRefusal: false,
  line: 'request.failed',
} as const
const refused = {
  ...aborted,
  spanStatus: 'unset',
  errorType: ERROR_CODE,
  statusCode: null,
  isRefusal: true,
  line: 'request.refused',
} as const
const left = { ...failed, line: 'request.aborted' } as const
const before = { phase: 'before headers', tail: 'body' } as const
const stream = { phase: 'in the stream', sent: [200] } as const

const departed = {
  spanStatus: 'unset',
  errorType: null,
  event: 'request.departed',
  reason: null,
  statusCode: null,
  isRefusal: false,
  line: 'response.sent',
} as const

/** Both phases of an ending that fails a request the server was at fault for. */
function failure(
  ending: EndingName,
  path: string,
  errorType: string,
  sent: readonly number[],
  reason: string = ending,
): readonly EndingRow[] {
  return [
    { ending, path, ...failed, ...before, sent, errorType, reason },
    { ending, path: `${path}, in the stream`, ...failed, ...stream, errorType, reason, tail: 'error frame, [DONE]' },
  ]
}

export const ENDINGS: readonly EndingRow[] = [
  { ending: 'success', path: 'success', ...departed, ...before, sent: [200] },
  { ending: 'success', path: 'success, streamed', ...departed, ...stream, tail: '[DONE]' },
  {
    ending: 'validation',
    path: 'validation',
    ...refused,
    ...before,
    sent: [400, 404, 405, 408, 409, 411, 413, 415, 422, 431],
    reason: 'validation',
  },
  { ending: 'unauthorized', path: 'auth', ...refused, ...before, sent: [401, 403], reason: 'unauthorized' },
  { ending: 'refused', path: 'refused: queue full', ...refused, ...before, sent: [429], reason: 'overloaded' },
  {
    ending: 'unavailable',
    path: 'refused: draining, loading',
    ...failed,
    isRefusal: true,
    line: 'request.refused',
    ...before,
    sent: [503],
    errorType: 'overloaded',
    reason: 'overloaded',
  },
  {
    ending: 'client_disconnect',
    path: 'client gone before headers',
    ...left,
    phase: 'before headers',
    sent: [],
    statusCode: 499,
    errorType: 'client_disconnect',
    reason: 'client_disconnect',
    tail: 'none',
  },
  {
    ending: 'client_disconnect',
    path: 'client gone in the stream',
    ...left,
    ...stream,
    errorType: 'client_disconnect',
    reason: 'client_disconnect',
    tail: 'none',
  },
  {
    ending: 'closed_early',
    path: 'consumer closed the generator early (`return()`)',
    ...left,
    ...stream,
    errorType: 'closed_early',
    reason: 'closed_early',
    tail: 'none',
  },
  ...failure('deadline', 'deadline', 'deadline', [504]),
  ...failure('engine_error', 'engine error', 'engine_error', [500, 502, 503]),
  ...failure('device_lost', 'device lost', 'device_lost', [500, 503]),
  ...failure('exception', 'write failure, uncaught', 'exception', [500]),
  ...failure('shutdown', 'shutdown bound passed', 'shutdown', [503]),
  {
    ending: 'shutdown',
    path: 'process ended before an answer',
    ...failed,
    phase: 'before headers',
    sent: [],
    errorType: 'shutdown',
    reason: 'shutdown',
    tail: 'none',
  },
  {
    ending: 'exception',
    path: 'process crashed',
    ...failed,
    phase: 'before headers',
    sent: [],
    errorType: 'exception',
    reason: 'exception',
    tail: 'none',
  },
  {
    ending: 'leak',
    path: 'watchdog',
    ...failed,
    phase: 'before headers',
    sent: [],
    errorType: 'span_leak',
    reason: 'leak',
    tail: 'none',
  },
]

/**
 * The row of an ending by the status that was sent; null: none was. An unforeseen status falls back to the ending's first row, so
 * that a request is closed in any case.
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

/** A request's kind, and whether it is a probe: those would drown the story of the others. */
interface Teller {
  readonly kind: 'generation' | 'retrieval' | 'other'
  readonly isProbe?: boolean
}

/** Level of the first line. Requests that are not the server's work have one line, the last. */
export const firstLineLevel = ({ kind }: Teller): 'debug' | 'info' => (kind === 'other' ? 'debug' : 'info')

/** Level of the last line. */
export function lastLineLevel(row: EndingRow, { kind, isProbe = false }: Teller): 'debug' | 'info' | 'warn' | 'error' {
  if (row.line === 'request.failed') return 'error'
  // A 503 is the expected answer to a probe while the model loads.
  if (isProbe && (row.ending === 'success' || row.ending === 'unavailable')) return 'debug'
  return row.ending === 'unavailable' && kind !== 'other' ? 'warn' : 'info'
}
