/** The query parameters of /v1/traces and /traces. */
import { z } from 'zod'
import type { TraceQuery } from '../observability/trace-filter.ts'
import { invalidRequest } from './errors.ts'

const count = z.coerce.number('a whole number').int('a whole number').min(0, 'a whole number of at least 0')
const milliseconds = z.coerce.number('a number').min(0, 'a number of at least 0')
/** An empty field of the page's form is not set. */
const optional = <T extends z.ZodType>(type: T) =>
  z.preprocess((value) => (value === '' ? undefined : value), type.optional())

export const traceQuery = z.object({
  status: optional(z.string().regex(/^(ok|error|[1-5]xx|[1-5]\d\d)$/, 'ok, error, a status or a class such as 5xx')),
  route: optional(z.string()),
  model: optional(z.string()),
  key: optional(z.string()),
  conversation: optional(z.string()),
  min_ms: optional(milliseconds),
  max_ms: optional(milliseconds),
  since: optional(
    z
      .string()
      .refine((value) => !Number.isNaN(toEpochMs(value)), 'a time: ISO 8601 or milliseconds since 1970')
      .meta({ format: 'date-time' }),
  ),
  min_tokens_in: optional(count),
  min_tokens_out: optional(count),
  tokens_out: optional(count),
  request_id: optional(z.string()),
  id: optional(z.string().trim()),
  limit: optional(count.max(1000, 'at most 1000')),
})

/** Longest wait for a trace whose requests still run. */
export const MAX_WAIT_SECONDS = 60

const toEpochMs = (value: string): number => (/^\d+$/.test(value) ? Number(value) : Date.parse(value))

/** The query as the trace store takes it. @throws ApiError 400 naming the parameter */
export function parseTraceQuery(parameters: Readonly<Record<string, string>>): TraceQuery {
  const parsed = traceQuery.safeParse(parameters)
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    const name = String(issue?.path[0] ?? 'query')
    throw invalidRequest(`${name}: expected ${issue?.message ?? 'another value'}, found something else`, name)
  }
  const { since, ...rest } = parsed.data
  const query: Record<string, string | number> = since === undefined ? {} : { sinceMs: toEpochMs(since) }
  for (const [name, value] of Object.entries(rest)) if (value !== undefined) query[camelCase(name)] = value
  return query
}

const camelCase = (name: string): string => name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())
