/** The end of a request, for its root span and its last log line. */
import type { Attributes } from '@opentelemetry/api'
import { describeError, exceptionAttributes } from './attributes.ts'
import { type EndingName, type EndingRow, ERROR_CODE } from './endings.ts'
import type { LogFields } from './log.ts'
import type { RequestFacts } from './request-facts.ts'
import type { OpenRequestInput, RootAttributes } from './root-span.ts'
import { roundMs } from './stage.ts'

export interface FinishInput {
  readonly ending: EndingName
  /** The status sent; null: none was. */
  readonly status: number | null
  /** Its class, code and frames are recorded; its message only for this project's own classes. */
  readonly error?: unknown
}

interface LastWords {
  readonly attributes: RootAttributes
  /** Message of the ERROR status; null: the root has no error. */
  readonly spanMessage: string | null
  /** Attributes of the exception event; null: there is no such event. */
  readonly exception: Attributes | null
  readonly fields: LogFields
}

/** error.type of the root: that of the row, or the error's code; null: the request succeeded. */
export function errorTypeOf(row: EndingRow, { status, error }: FinishInput): string | null {
  if (row.errorType !== ERROR_CODE) return row.errorType
  const sent = row.statusCode ?? status
  return (error === undefined ? null : describeError(error).code) ?? (sent === null ? null : String(sent))
}

/** Attributes of the root span and fields of the last log line, from what is known when a request ends. */
export function lastWords(
  facts: RequestFacts,
  request: OpenRequestInput,
  row: EndingRow,
  { status: sent, error }: FinishInput,
): LastWords {
  const status = row.statusCode ?? sent
  const described = error === undefined ? null : describeError(error)
  const isError = row.spanStatus === 'error'
  return {
    attributes: {
      'http.status_code': status ?? undefined,
      'error.type': facts.ended?.errorType ?? undefined,
      'llm.request.param': described?.param ?? undefined,
    } as RootAttributes,
    spanMessage: isError ? (described?.code ?? row.errorType ?? row.ending) : null,
    exception: isError && described && row.ending !== 'client_disconnect' ? exceptionAttributes(error) : null,
    fields: {
      request_id: request.requestId,
      route: request.route,
      status: status ?? undefined,
      duration_ms: roundMs((facts.ended?.atMs ?? facts.startMs) - facts.startMs),
      tokens_in: facts.tokensIn ?? undefined,
      tokens_out: facts.tokensOut ?? undefined,
      finish_reasons: facts.finishReasons,
      reason: row.reason ?? undefined,
      error_type: described?.type,
      error_code: described?.code ?? undefined,
      param: described?.param ?? undefined,
      error: row.line === 'request.failed' ? error : undefined,
    },
  }
}
