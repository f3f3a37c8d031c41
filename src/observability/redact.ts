/**
 * Redaction of log fields. Text is written only in the fields of an allow-list (log.ts) and in attributes of the span contract. Other fields
 * may be numbers or booleans, unless their name suggests content (prompt, completion, messages, text; in any case, at any depth). Of errors
 * the class, code and frames are written, and the message only for this project's own classes.
 */
import { describeError, framesOf } from './attributes.ts'
import { SPAN_TABLE } from './contract.ts'
import { TEXT_FIELDS } from './log.ts'

const ALLOWED: ReadonlySet<string> = new Set([
  ...TEXT_FIELDS,
  ...Object.values(SPAN_TABLE).flatMap(({ attributes }) =>
    Object.entries(attributes).flatMap(([name, spec]) => (spec.isContent ? [] : [name])),
  ),
])

const CONTENT_KEY = /prompt|completion|messages|text/i

/** Field and metric names that match CONTENT_KEY but are counts. */
const NUMERIC_KEYS: ReadonlySet<string> = new Set([
  'prompt_tokens',
  'completion_tokens',
  'prompt_index',
  'num_prompts',
  'num_prompt_tokens',
  'num_completion_tokens',
  'context_length',
  'max_context',
])

const MAX_DEPTH = 6
const MAX_KEYS = 64
const MAX_ITEMS = 128
const MAX_STRING = 1024

/** A copy of the fields that is safe to write. */
export function redact(fields: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return copyEntries(Object.entries(fields), 0, new Set())
}

function copyEntries(
  entries: Iterable<readonly [string, unknown]>,
  depth: number,
  above: ReadonlySet<object>,
): Record<string, unknown> {
  const out: Record<string, unknown> = {}
  let numKeys = 0
  for (const [key, value] of entries) {
    if (value === undefined) continue
    if (NUMERIC_KEYS.has(key)) {
      if (typeof value === 'number' && Number.isFinite(value)) out[key] = value
      continue
    }
    if (CONTENT_KEY.test(key)) continue
    if (!ALLOWED.has(key) && typeof value !== 'number' && typeof value !== 'boolean' && value !== null) continue
    if (++numKeys > MAX_KEYS) break
    const copy = copyValue(value, depth, above)
    if (copy !== undefined) out[key] = copy
  }
  return out
}

function copyValue(value: unknown, depth: number, above: ReadonlySet<object>): unknown {
  switch (typeof value) {
    case 'string':
      return value.length > MAX_STRING ? `${value.slice(0, MAX_STRING)}…` : value
    case 'number':
      return Number.isFinite(value) ? value : String(value)
    case 'boolean':
      return value
    case 'bigint':
      return value.toString()
    case 'object':
      return value === null ? null : copyObject(value, depth, above)
    default:
      return undefined
  }
}

function copyObject(value: object, depth: number, above: ReadonlySet<object>): unknown {
  if (above.has(value)) return '[circular]'
  if (depth >= MAX_DEPTH) return '[deep]'
  const inside = new Set(above).add(value)
  if (value instanceof Error) return copyError(value, depth, inside)
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString()
  if (value instanceof Map) {
    return copyEntries(
      [...value].map(([key, item]) => [String(key), item] as const),
      depth + 1,
      inside,
    )
  }
  if (Array.isArray(value) || value instanceof Set) {
    return [...value].slice(0, MAX_ITEMS).map((item) => copyValue(item, depth + 1, inside) ?? null)
  }
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return `[${value.byteLength} bytes]`
  // toJSON is not called: it may turn an object with safe keys into one string of content.
  return copyEntries(Object.entries(value), depth + 1, inside)
}

function copyError(error: Error, depth: number, above: ReadonlySet<object>): Record<string, unknown> {
  const { type, code, message } = describeError(error)
  const frames = framesOf(error)
  return {
    type,
    ...(code === null ? {} : { code }),
    ...(message === null ? {} : { message }),
    ...(frames === null ? {} : { frames: frames.split('\n') }),
    ...(error.cause instanceof Error ? { cause: copyObject(error.cause, depth + 1, above) } : {}),
  }
}
