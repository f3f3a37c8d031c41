/** Values on their way onto a span: checked against the contract, doubled under their convention names, never NaN. */
import type { Attributes } from '@opentelemetry/api'
import { type AttributeValue, SPAN_TABLE } from './contract.ts'
import type { AttributeSpec, AttributeType } from './contract-spec.ts'

/** Longest string on a span; the decode timeline is made to fit. */
export const MAX_ATTRIBUTE_CHARACTERS = 2048

const isCount = (value: unknown): boolean => typeof value === 'number' && Number.isSafeInteger(value) && value >= 0

/** True when a value may leave under the type: counts are non-negative safe integers, doubles finite. */
export function isOfType(value: unknown, type: AttributeType): value is AttributeValue {
  switch (type) {
    case 'string':
      return typeof value === 'string'
    case 'int':
      return isCount(value)
    case 'double':
      return typeof value === 'number' && Number.isFinite(value)
    case 'boolean':
      return typeof value === 'boolean'
    case 'string[]':
      return Array.isArray(value) && value.every((item) => typeof item === 'string')
    default:
      throw new Error(`contract: unknown attribute type ${String(type)}`)
  }
}

/**
 * The attributes of a span of this name with their aliases. Values of the wrong type are left out and reported to `onBreach`:
 * a stringified number would break queries silently, and tracing must not break the request.
 */
export function contractAttributes(
  spanName: string,
  values: Readonly<Record<string, unknown>>,
  onBreach: (spanName: string, attribute: string) => void,
): Attributes {
  const specs = SPAN_TABLE[spanName]?.attributes ?? {}
  return checked(specs, values, (attribute) => onBreach(spanName, attribute))
}

/** The attributes of an event on a span of this name. */
export function eventAttributes(
  spanName: string,
  eventName: string,
  values: Readonly<Record<string, unknown>>,
  onBreach: (spanName: string, attribute: string) => void,
): Attributes {
  const specs = SPAN_TABLE[spanName]?.events[eventName]?.attributes
  if (!specs) {
    onBreach(spanName, eventName)
    return {}
  }
  return checked(specs, values, (attribute) => onBreach(spanName, `${eventName}.${attribute}`))
}

function checked(
  specs: Readonly<Record<string, AttributeSpec>>,
  values: Readonly<Record<string, unknown>>,
  onBreach: (attribute: string) => void,
): Attributes {
  const out: Attributes = {}
  for (const name in values) {
    const value = values[name]
    if (value === undefined || value === null) continue
    const spec = specs[name]
    if (!spec || !isOfType(value, spec.type) || (spec.oneOf && !spec.oneOf.includes(String(value)))) {
      onBreach(name)
      continue
    }
    const copy = Array.isArray(value) ? value.map(String) : (value as string | number | boolean)
    out[name] = copy
    for (const alias of spec.alias ?? []) out[alias] = copy
  }
  return out
}

/**
 * Class and stable code of an error, all that leaves of it: messages and stacks may quote a prompt. `isClientFault` errors are the
 * caller's (400 to 499) and leave a span's status unset.
 */
export function describeError(error: unknown): {
  readonly type: string
  readonly code: string | null
  readonly isClientFault: boolean
} {
  if (typeof error !== 'object' || error === null) return { type: typeof error, code: null, isClientFault: false }
  const type = error instanceof Error ? error.name : 'object'
  const code =
    'code' in error && typeof error.code === 'string' && /^[A-Za-z0-9_.-]{1,64}$/.test(error.code) ? error.code : null
  const status = 'status' in error && typeof error.status === 'number' ? error.status : null
  return {
    type,
    code,
    isClientFault: (status !== null && status >= 400 && status < 500) || CLIENT_CODES.has(code ?? ''),
  }
}

const CLIENT_CODES: ReadonlySet<string> = new Set(['invalid_request', 'context_length_exceeded', 'queue_full'])
