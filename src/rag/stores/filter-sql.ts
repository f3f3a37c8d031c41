/** Metadata filters as SQL conditions. */
import type { FilterCondition, MetadataFilter, MetadataScalar } from '../vector-index.ts'

/** The numbered parameters of a statement, collected while its text is composed. */
export class SqlParameters {
  readonly values: unknown[] = []
  add(value: unknown): string {
    this.values.push(value)
    return `$${this.values.length}`
  }
}

/** A condition over documents `d`, equivalent to matchesFilter (filter.ts). Field names and values are parameters, never text. */
export function filterSql(filter: MetadataFilter | undefined, parameters: SqlParameters): string {
  const conditions = Object.entries(filter ?? {}).map(([field, condition]) => fieldSql(field, condition, parameters))
  return conditions.length === 0 ? 'true' : conditions.join(' and ')
}

const isOperators = (
  condition: FilterCondition,
): condition is Extract<FilterCondition, { readonly exists?: boolean }> =>
  typeof condition === 'object' && condition !== null && !Array.isArray(condition)

/** Values of a list that are each looked up in the index over metadata. */
const MAX_LOOKED_UP = 32

/** An equality that the table's indexes can answer; null for other conditions. */
function lookup(field: string, condition: FilterCondition, parameters: SqlParameters): string | null {
  if (isOperators(condition)) return null
  const values: readonly MetadataScalar[] = Array.isArray(condition) ? condition : [condition]
  if (field === 'id' || field === 'source') {
    const texts = values.filter((value) => typeof value === 'string')
    return `d.${field} = any(${parameters.add(texts)}::text[])`
  }
  if (values.length > MAX_LOOKED_UP) return null
  // The field is the value, or a list that contains it.
  const held = values.flatMap((value) => [{ [field]: value }, { [field]: [value] }])
  const some = held.map((object) => `d.metadata @> ${parameters.add(JSON.stringify(object))}::jsonb`)
  return some.length === 0 ? 'false' : `(${some.join(' or ')})`
}

function fieldSql(field: string, condition: FilterCondition, parameters: SqlParameters): string {
  const looked = lookup(field, condition, parameters)
  if (looked !== null) return looked
  const value =
    field === 'id'
      ? 'to_jsonb(d.id)'
      : field === 'source'
        ? 'to_jsonb(d.source)'
        : `(d.metadata -> ${parameters.add(field)})`
  // Tests each value of the field: those of a list, or none if it is missing. Only lists are unfolded, because that is slow.
  const some = (test: (v: string) => string): string =>
    `(case jsonb_typeof(${value}) when 'array' then exists (select from jsonb_array_elements(${value}) as v where ${test('v')}) ` +
    `else ${value} is not null and ${test(value)} end)`
  const json = (operand: unknown): string => `${parameters.add(JSON.stringify(operand))}::jsonb`
  if (!isOperators(condition)) {
    return Array.isArray(condition)
      ? some((v) => `${json(condition)} @> jsonb_build_array(${v})`)
      : some((v) => `${v} = ${json(condition)}`)
  }
  const { ne, exists, prefix, ...comparisons } = condition
  const parts: string[] = []
  if (exists !== undefined) parts.push(`(${value} is not null) = ${parameters.add(exists)}`)
  if (ne !== undefined) parts.push(`not ${some((v) => `${v} = ${json(ne)}`)}`)
  const range: ((v: string) => string)[] = []
  if (prefix !== undefined)
    range.push((v) => `jsonb_typeof(${v}) = 'string' and starts_with(${v} #>> '{}', ${parameters.add(prefix)})`)
  for (const [name, operator] of [
    ['gt', '>'],
    ['gte', '>='],
    ['lt', '<'],
    ['lte', '<='],
  ] as const) {
    const operand = comparisons[name]
    if (operand === undefined) continue
    range.push((v) =>
      typeof operand === 'number'
        ? `jsonb_typeof(${v}) = 'number' and ${v} ${operator} ${json(operand)}`
        : `jsonb_typeof(${v}) = 'string' and (${v} #>> '{}') collate "C" ${operator} ${parameters.add(operand)}`,
    )
  }
  if (range.length > 0) parts.push(some((v) => range.map((test) => test(v)).join(' and ')))
  return parts.length === 0 ? 'true' : `(${parts.join(' and ')})`
}
