/** Metadata filters: validates untrusted input, and tests documents. */
import { RagError } from './errors.ts'
import {
  isStorableText,
  type FilterCondition,
  type Metadata,
  type MetadataFilter,
  type MetadataScalar,
  type MetadataValue,
} from './vector-index.ts'

const OPERATORS = ['ne', 'gt', 'gte', 'lt', 'lte', 'prefix', 'exists'] as const
/** The types of operands other than numbers and strings. */
const OPERAND_TYPES: Readonly<Record<string, readonly string[]>> = { exists: ['boolean'], prefix: ['string'] }
const MAX_FIELDS = 32
const MAX_VALUES = 1000

const isScalar = (value: unknown): value is MetadataScalar =>
  value === null ||
  (typeof value === 'string' && isStorableText(value)) ||
  typeof value === 'boolean' ||
  (typeof value === 'number' && Number.isFinite(value))

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/**
 * Validates an untrusted filter.
 * @throws RagError invalid_request naming the field, but never its value
 */
export function parseFilter(value: unknown, param: string): MetadataFilter {
  const refuse = (field: string, expected: string): RagError =>
    new RagError('invalid_request', `${param}${field}: expected ${expected}`, `${param}${field}`)
  if (!isRecord(value)) throw refuse('', 'an object of conditions by metadata field')
  const fields = Object.entries(value)
  if (fields.length > MAX_FIELDS) throw refuse('', `at most ${MAX_FIELDS} fields, found ${fields.length}`)
  if (fields.some(([field]) => !isStorableText(field))) throw refuse('', 'field names without NUL characters')
  // Without a prototype, so that a condition on a field named __proto__ is kept.
  const filter: Record<string, FilterCondition> = Object.create(null)
  for (const [field, condition] of fields) {
    if (isScalar(condition)) filter[field] = condition
    else if (Array.isArray(condition)) {
      if (condition.length > MAX_VALUES || !condition.every(isScalar)) {
        throw refuse(`.${field}`, `at most ${MAX_VALUES} strings, numbers, booleans or nulls`)
      }
      filter[field] = condition
    } else filter[field] = parseOperators(condition, (expected) => refuse(`.${field}`, expected))
  }
  return filter
}

function parseOperators(condition: unknown, refuse: (expected: string) => RagError): FilterCondition {
  if (!isRecord(condition)) throw refuse('a value, a list of values or an object of operators')
  const parsed: Record<string, MetadataScalar> = {}
  for (const [operator, operand] of Object.entries(condition)) {
    if (!OPERATORS.some((known) => known === operator)) throw refuse(`only the operators ${OPERATORS.join(', ')}`)
    const types = OPERAND_TYPES[operator] ?? ['number', 'string']
    if (!isScalar(operand) || (operator !== 'ne' && !types.includes(typeof operand)))
      throw refuse(`a valid value for ${operator}`)
    parsed[operator] = operand
  }
  if (Object.keys(parsed).length === 0) throw refuse('at least one operator')
  return parsed
}

/** Compares two numbers or two strings. A number and a string never compare. */
function compares(value: MetadataScalar, operand: number | string, test: (order: number) => boolean): boolean {
  if (typeof value === 'string' && typeof operand === 'string') return test(compareTexts(value, operand))
  return typeof value === 'number' && typeof operand === 'number' && test(Math.sign(value - operand))
}

/** Compares by code points, as UTF-8 and databases do. JavaScript's own order has U+10000 and above before U+E000. */
function compareTexts(a: string, b: string): number {
  const length = Math.min(a.length, b.length)
  let at = 0
  while (at < length && a.charCodeAt(at) === b.charCodeAt(at)) at++
  if (at === length) return Math.sign(a.length - b.length)
  const rank = (unit: number) => (unit < 0xd800 ? unit : unit < 0xe000 ? unit + 0x2000 : unit - 0x800)
  return Math.sign(rank(a.charCodeAt(at)) - rank(b.charCodeAt(at)))
}

type Operators = Exclude<FilterCondition, MetadataScalar | readonly MetadataScalar[]>

function isInRange(value: MetadataScalar, { gt, gte, lt, lte, prefix }: Operators): boolean {
  return (
    (gt === undefined || compares(value, gt, (order) => order > 0)) &&
    (gte === undefined || compares(value, gte, (order) => order >= 0)) &&
    (lt === undefined || compares(value, lt, (order) => order < 0)) &&
    (lte === undefined || compares(value, lte, (order) => order <= 0)) &&
    (prefix === undefined || (typeof value === 'string' && value.startsWith(prefix)))
  )
}

const isList = (value: MetadataValue | FilterCondition): value is readonly MetadataScalar[] => Array.isArray(value)

function matches(value: MetadataValue | undefined, condition: FilterCondition): boolean {
  const values = value === undefined ? [] : isList(value) ? value : [value]
  if (isScalar(condition)) return values.includes(condition)
  if (isList(condition)) return values.some((item) => condition.includes(item))
  const { ne, exists, ...range } = condition
  if (exists !== undefined && exists !== (value !== undefined)) return false
  // A list passes `ne` only if none of its values is equal: "one value differs" would let nearly everything pass.
  if (ne !== undefined && values.includes(ne)) return false
  return Object.keys(range).length === 0 || values.some((item) => isInRange(item, range))
}

/** A field of the document itself, not one that every object has, such as `constructor`. */
const own = (metadata: Metadata, field: string): MetadataValue | undefined =>
  Object.hasOwn(metadata, field) ? metadata[field] : undefined

/** Whether a document passes. `id` and `source` hide metadata fields of the same names. */
export function matchesFilter(
  document: { readonly id: string; readonly source: string; readonly metadata: Metadata },
  filter: MetadataFilter,
): boolean {
  return Object.entries(filter).every(([field, condition]) =>
    matches(
      field === 'id' ? document.id : field === 'source' ? document.source : own(document.metadata, field),
      condition,
    ),
  )
}
