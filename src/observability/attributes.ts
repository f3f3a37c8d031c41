/** Checks values against the contract before they go on a span, and adds their aliases. Also describes errors without content. */
import type { Attributes } from '@opentelemetry/api'
import { type AttributeValue, SPAN_TABLE } from './contract.ts'
import type { AttributeSpec } from './contract/span-spec.ts'

/** Longest string on a span. The decode timeline is made to fit. */
export const MAX_ATTRIBUTE_CHARACTERS = 2048

/** True when a value may leave under the type: integers are safe ones and, unless `isSigned`, not negative; doubles are finite. */
function isOfType(value: unknown, { type, isSigned }: AttributeSpec): value is AttributeValue {
  switch (type) {
    case 'string':
      return typeof value === 'string'
    case 'int':
      return typeof value === 'number' && Number.isSafeInteger(value) && (value >= 0 || isSigned === true)
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
 * The attributes of a span with their aliases. Values of the wrong type are omitted and reported to `onBreach`: they would silently break
 * queries, and tracing must not break the request. Content is omitted unless it is captured.
 */
export function contractAttributes(
  spanName: string,
  values: Readonly<Record<string, unknown>>,
  onBreach: (spanName: string, attribute: string) => void,
  capturesContent = true,
): Attributes {
  const specs = SPAN_TABLE[spanName]?.attributes ?? {}
  const attributes = checked(specs, values, (attribute) => onBreach(spanName, attribute))
  if (!capturesContent) for (const key in attributes) if (specs[key]?.isContent) delete attributes[key]
  return attributes
}

/** The attributes of an event on a span. */
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
    if (!spec || !isOfType(value, spec) || (spec.oneOf && !spec.oneOf.includes(String(value)))) {
      onBreach(name)
      continue
    }
    const copy = Array.isArray(value) ? value.map(String) : clipped(value as string | number | boolean, spec)
    out[name] = copy
    for (const alias of spec.alias ?? []) out[alias] = copy
  }
  return out
}

const clipped = (value: string | number | boolean, { isContent }: AttributeSpec) =>
  typeof value === 'string' && value.length > MAX_ATTRIBUTE_CHARACTERS && !isContent
    ? value.slice(0, MAX_ATTRIBUTE_CHARACTERS)
    : value

/** Error classes of this project. Their messages name fields and files, and never quote a caller's text. */
const OWN_ERRORS: ReadonlySet<string> = new Set([
  'ApiError',
  'EngineError',
  'RagError',
  'ModelError',
  'RunnerError',
  'DeviceLostError',
  'DamagedWeightsError',
  'SequenceFault',
  'PluginError',
  'StartError',
])

const MAX_FRAMES = 12
/** Paths are made relative to the package's folder, so that they do not reveal where it is installed. */
const FOLDER = /(?:file:\/\/)?\/[^\s()]*?\/(?=(?:dist|src|node_modules)\/)/g

/** The stack frames of an error, without its message, which may quote a prompt; null if there are none. */
export function framesOf(error: unknown): string | null {
  if (!(error instanceof Error) || typeof error.stack !== 'string') return null
  const at = error.message === '' ? 0 : error.stack.indexOf(error.message)
  if (at < 0) return null
  const frames = error.stack
    .slice(at + error.message.length)
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line.startsWith('at '))
  return frames.length === 0 ? null : frames.slice(0, MAX_FRAMES).join('\n').replace(FOLDER, '')
}

/** The frames of an error and of its cause. */
function stackOf(error: unknown): string | null {
  const frames = framesOf(error)
  const cause = error instanceof Error ? error.cause : undefined
  if (!(cause instanceof Error)) return frames
  return [frames, `Caused by: ${describeError(cause).type}`, framesOf(cause)].filter((part) => part !== null).join('\n')
}

/** The attributes of an exception event. */
export function exceptionAttributes(error: unknown): Attributes {
  const { type, code, message } = describeError(error)
  return {
    'exception.type': type,
    'exception.message': message ?? code ?? undefined,
    'exception.stacktrace': stackOf(error) ?? undefined,
  }
}

/**
 * What may be recorded of an error: its class, its stable code, the request field it names and, for this project's own classes, its message.
 * Other messages may quote a prompt.
 */
export function describeError(error: unknown): {
  readonly type: string
  readonly code: string | null
  readonly param: string | null
  readonly message: string | null
} {
  if (typeof error !== 'object' || error === null) return { type: typeof error, code: null, param: null, message: null }
  const type = error instanceof Error ? error.name : 'object'
  const code =
    'code' in error && typeof error.code === 'string' && /^[A-Za-z0-9_.-]{1,64}$/.test(error.code) ? error.code : null
  const param = 'param' in error && typeof error.param === 'string' ? error.param.slice(0, 128) : null
  return {
    type,
    code,
    param,
    message: error instanceof Error && OWN_ERRORS.has(type) ? error.message.slice(0, 512) : null,
  }
}
