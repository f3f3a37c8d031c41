/** Grammars of lists. */
import { inOrder, NOTHING, text, times } from '../byte-grammar.ts'
import type { Expression } from '../byte-grammar.ts'
import { inBrackets, countedMembers, finiteValues } from './json-members.ts'
import type { Member, Members, SchemaRules } from './json-members.ts'
import { literalOf } from '../notation.ts'
import type { Brackets, ValueContext } from '../notation.ts'
import { alternatives, childPath, boundedCounts } from './schema-expander.ts'
import type { Conjunction } from './schema-expander.ts'
import { Unenforceable } from '../unenforceable.ts'

/** The rule of a list. */
export function arrayRule(
  rules: SchemaRules,
  parts: Conjunction,
  { path, depth, style }: ValueContext,
): Expression | null {
  const note = (problem: string) => rules.note(problem, path)
  const { least, most } = boundedCounts(parts, ['minItems', 'maxItems'], note)
  const own = style.notation.inner ?? style.notation
  const { list } = own
  const inner = rules.styleWithin(style, null)
  const isUnique = parts.some(({ uniqueItems }) => uniqueItems === true)
  const { prefix, rest } = places(parts, least)
  const first = prefix.map((schemas, i) => rules.node(schemas, childPath(path, 'prefixItems', i), depth + 1, inner))
  const isClosed = rest.includes(false)
  const item = isClosed ? null : rules.node(rest, childPath(path, 'items'), depth + 1, inner)
  if (isUnique && most > 1) {
    const values = prefix.length > 0 ? null : finiteValues(rules, rest)
    if (values !== null) {
      const listed = values.flatMap((value) => literalOf(JSON.parse(value), own, false) ?? [])
      if (listed.length <= MAX_REORDERED) return inBrackets(list, distinctItems(rules, listed, { least, most }, list.comma)) // prettier-ignore
      const members = listed.map((rule): Member => ({ rule, isRequired: false }))
      return inBrackets(list, countedMembers(rules, members, null, { least, most }, list.comma, path, 'items'))
    }
    rules.note('"uniqueItems"', path)
  }
  const wanted = containsBounds(parts, note)
  if (wanted !== null) {
    if (prefix.length === 0 && wanted.others === 0) return containsRule(rules, rest, { least, most }, wanted, { path, depth, style }) // prettier-ignore
    rules.note('"contains"', path)
  }
  const missing = first.indexOf(null)
  const fixed = (missing < 0 ? first : first.slice(0, missing)).filter((rule) => rule !== null)
  const tail = missing < 0 ? item : null
  if (fixed.length + (tail === null ? 0 : Infinity) < least) return null
  const one =
    tail === null || Math.max(least, most === Infinity ? 0 : most) < MAX_COUNTED_ITEMS ? tail : rules.grammar.rule(tail)
  if (fixed.length === 0) return homogeneousList(list, one, least, most)
  // A list that ends among the fixed items would be valid too, but the schema's author expects all of them.
  const numFixed = Math.min(fixed.length, most)
  const free = numFixed < fixed.length ? null : one
  const least2 = Math.max(0, least - numFixed)
  const more = free === null || most - numFixed <= 0 ? [] : [times(inOrder(list.comma, free), least2, most - numFixed)]
  const first2 = fixed.slice(0, numFixed).flatMap((rule, i) => (i === 0 ? [rule] : [list.comma, rule]))
  return inBrackets(list, { body: inOrder(...first2, ...more), mayBeEmpty: false })
}

/** Limit on distinct items that may come in any order. More come in the order of their schema. */
const MAX_REORDERED = 8

/** Some of the items in any order, each at most once: a rule for each set of items that came before. */
function distinctItems(
  { grammar }: SchemaRules,
  items: readonly Expression[],
  { least, most }: { readonly least: number; readonly most: number },
  comma: Expression,
): Members {
  const shared = items.map((item) => grammar.rule(item))
  const after = new Map<number, Expression | null>()
  for (let before = 2 ** items.length - 1; before >= 0; before--) {
    const count = items.filter((_, i) => (before >> i) & 1).length
    const next = shared.flatMap((item, i) => {
      const rest = (before >> i) & 1 || count >= most ? null : after.get(before | (1 << i))
      return rest === null || rest === undefined ? [] : [inOrder(...(before === 0 ? [] : [comma]), item, rest)]
    })
    const made = alternatives([before > 0 && count >= least ? NOTHING : null, ...next])
    after.set(before, made === null ? null : grammar.rule(made))
  }
  return { body: after.get(0) ?? null, mayBeEmpty: least === 0 }
}

/** The schemas of the fixed first items, and of the items after them. */
function places(parts: Conjunction, least: number): { readonly prefix: unknown[][]; readonly rest: unknown[] } {
  const lists = parts.map((part) => {
    const { prefixItems, items, unevaluatedItems } = part
    if (prefixItems !== undefined && (!Array.isArray(prefixItems) || prefixItems.length === 0))
      throw new Unenforceable('"prefixItems": a list with something in it is expected')
    // The standard's older drafts listed the first places under `items`.
    const first: unknown[] = Array.isArray(prefixItems) ? prefixItems : Array.isArray(items) ? items : []
    const after = Array.isArray(items) ? part.additionalItems : (items ?? unevaluatedItems)
    // Items after the described ones are allowed, but seldom intended.
    return { first, after: after === undefined && first.length > 0 && least <= first.length ? false : after }
  })
  const numFirst = Math.max(0, ...lists.map(({ first }) => first.length))
  const prefix = Array.from({ length: numFirst }, (_, i) =>
    lists.map(({ first, after }) => (i < first.length ? first[i] : after)),
  )
  return { prefix, rest: lists.map(({ after }) => after) }
}

/** `contains`: the schema, and how many items must satisfy it. */
interface ContainsBounds {
  readonly schema: unknown
  readonly least: number
  readonly most: number
  /** Further schemas of its kind. */
  readonly others: number
}

function containsBounds(parts: Conjunction, note: (problem: string) => void): ContainsBounds | null {
  const all = parts.flatMap((part) => {
    if (part.contains === undefined) return []
    const { least, most } = boundedCounts(
      [{ minContains: 1, ...part }],
      ['minContains', 'maxContains'],
      note,
      MAX_COUNTED_ITEMS,
    )
    return least === 0 && most === Infinity ? [] : [{ schema: part.contains, least, most }]
  })
  const [first] = all
  return first === undefined ? null : { ...first, others: all.length - 1 }
}

/** Lists longer than this are not counted item by item. */
const MAX_COUNTED_ITEMS = 64

/** A list in which some items must satisfy a further schema. */
function containsRule(
  rules: SchemaRules,
  items: readonly unknown[],
  { least: asked, most }: { readonly least: number; readonly most: number },
  wanted: ContainsBounds,
  { path, depth, style }: ValueContext,
): Expression | null {
  if (asked > MAX_COUNTED_ITEMS) rules.note(`"minItems" above ${MAX_COUNTED_ITEMS} beside "contains"`, path)
  const least = Math.min(asked, MAX_COUNTED_ITEMS)
  const { list } = style.notation.inner ?? style.notation
  const inner = rules.styleWithin(style, null)
  const node = (more: readonly unknown[], step: string) => (items.includes(false) ? null : rules.node([...items, ...more], childPath(path, step), depth + 1, inner)) // prettier-ignore
  const own = node([wanted.schema], 'contains')
  const isBounded = wanted.most < Infinity
  const negated = isBounded ? rules.expander.negation.of(wanted.schema) : null
  if (isBounded && negated === null) rules.note('"maxContains"', path)
  const other = node(negated === null ? [] : [negated], 'items')
  if (own === null && wanted.least > 0) return null
  const mostOwn = negated === null ? wanted.least : wanted.most
  // Beyond this number of items nothing has to be counted.
  const numPlaces = Math.min(most, MAX_COUNTED_ITEMS, Math.max(least, wanted.least) + (most < Infinity ? most : 0))
  if (most < Infinity && most > MAX_COUNTED_ITEMS)
    rules.note(`"maxItems" above ${MAX_COUNTED_ITEMS} beside "contains"`, path)
  const isOpen = most > numPlaces
  const states = new Map<string, Expression | null>()
  /** What may follow `place` items of which `found` are wanted ones. */
  const after = (place: number, found: number): Expression | null => {
    const key = `${place} ${found}`
    const known = states.get(key)
    if (known !== undefined) return known
    const rule = rules.grammar.open()
    states.set(key, rule)
    const next = isOpen && place === numPlaces ? place : place + 1
    const step = (item: Expression | null, nowFound: number) => {
      const rest = item === null || next > numPlaces || nowFound > mostOwn ? null : after(next, nowFound)
      return item === null || rest === null ? null : inOrder(...(place === 0 ? [] : [list.comma]), item, rest)
    }
    const isEnough = place >= least && found >= wanted.least
    const counted = found < mostOwn ? step(own, found + 1) : null
    const body = alternatives([isEnough ? NOTHING : null, counted, step(other, found)])
    if (body === null) states.set(key, null)
    else rules.grammar.define(rule, body)
    return body === null ? null : rule
  }
  // An empty list has no room inside.
  const whole = after(0, 0)
  return whole === null ? null : inOrder(text(list.open), list.gap, whole, list.gap, text(list.close))
}

function homogeneousList(list: Brackets, item: Expression | null, least: number, most: number): Expression | null {
  if (item === null || most === 0) return inBrackets(list, { body: null, mayBeEmpty: least === 0 })
  const body = inOrder(item, times(inOrder(list.comma, item), Math.max(0, least - 1), most - 1))
  return inBrackets(list, { body, mayBeEmpty: least === 0 })
}
