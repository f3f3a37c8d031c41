/** Grammars of the members of lists and objects: the brackets, the commas and the number of members. */
import { inOrder, NOTHING, oneOf, optional, text, times } from '../byte-grammar.ts'
import type { Expression, GrammarRules } from '../byte-grammar.ts'
import type { InnerOptions } from './json-strings.ts'
import type { Brackets, Style } from '../notation.ts'
import { satisfies, withoutListedValues } from './schema-check.ts'
import type { ReferenceTarget } from './schema-references.ts'
import { alternatives, commonTypes, fixedValues } from './schema-expander.ts'
import type { Conjunction, SchemaExpander } from './schema-expander.ts'

/** The part of a schema's grammar that collections use. */
export interface SchemaRules {
  readonly grammar: GrammarRules
  readonly expander: SchemaExpander
  /** The rule of a value that satisfies all schemas; null: there is none. */
  node(schemas: readonly unknown[], path: string, depth: number, style: Style): Expression | null
  anyValue(style: Style): Expression
  /** How the value of a property is written; a null name stands for an item of a list. */
  styleWithin(style: Style, name: string | null): Style
  /** The content of a string, without its quotes. */
  stringContent(parts: Conjunction, path: string, options?: InnerOptions): Expression
  note(problem: string, path: string): void
}

/** Limit on rules that count members: places times counts. */
const MAX_COUNTS = 4000

/** One member of a list or an object. */
export interface Member {
  readonly rule: Expression
  readonly isRequired: boolean
}

/** What stands between the brackets; null: only nothing can. */
export interface Members {
  readonly body: Expression | null
  readonly mayBeEmpty: boolean
}

/** Members in their brackets; null: no value is possible. */
export function inBrackets({ open, close, gap }: Brackets, { body, mayBeEmpty }: Members): Expression | null {
  if (body === null) return mayBeEmpty ? text(open + close) : null
  const inner = inOrder(text(open), gap, body, gap, text(close))
  return mayBeEmpty ? oneOf(text(open + close), inner) : inner
}

/**
 * Members in order, each at most once, followed by `free` members: `least` to `most` of them in total. There are two rules per place, and per count
 * of members before it if the count matters: what follows a comma, and what follows a member.
 */
export function countedMembers(
  rules: SchemaRules,
  own: readonly Member[],
  free: Expression | null,
  { least, most }: { readonly least: number; readonly most: number },
  comma: Expression,
  path: string,
  what: string,
): Members {
  const { grammar } = rules
  const numRequired = own.filter(({ isRequired }) => isRequired).length
  const mostThereAre = own.length + (free === null ? 0 : Infinity)
  const matters = least > numRequired || most < mostThereAre
  const isCounting = matters && own.length * Math.min(most, own.length) <= MAX_COUNTS
  if (matters && !isCounting) rules.note(`the number of ${what} beside this many of them`, path)
  const [low, high] = isCounting ? [least, most] : [0, Infinity]
  const lastRequired = own.findLastIndex(({ isRequired }) => isRequired)
  const mayStop = (place: number, numBefore: number) => place > lastRequired && numBefore >= low
  const counts = Array.from({ length: isCounting ? Math.min(high, own.length) + 1 : 1 }, (_, i) => i)
  const behind = (numBefore: number) => (isCounting ? numBefore + 1 : 0)
  // From the last place to the first; null: impossible.
  let nextByCount: (Expression | null)[] = counts.map((numBefore) => {
    if (free === null || numBefore >= high) return null
    return inOrder(free, times(inOrder(comma, free), Math.max(0, low - numBefore - 1), high - numBefore - 1))
  })
  const restOf = (place: number, numBefore: number, next: Expression | null): Expression | null => {
    const canStop = mayStop(place, numBefore)
    if (next === null || numBefore >= high) return canStop ? NOTHING : null
    return canStop ? optional(comma, next) : inOrder(comma, next)
  }
  for (let place = own.length - 1; place >= 0; place--) {
    const { rule, isRequired } = own[place] ?? { rule: NOTHING, isRequired: false }
    const after = nextByCount
    nextByCount = counts.map((numBefore) => {
      const rest = numBefore >= high ? null : restOf(place + 1, behind(numBefore), after[behind(numBefore)] ?? null)
      const taken = rest === null ? null : inOrder(rule, rest)
      const made = isRequired ? taken : alternatives([taken, after[numBefore] ?? null])
      return made === null ? null : grammar.rule(made)
    })
  }
  const all = nextByCount[0] ?? null
  const mayBeEmpty = mayStop(0, 0)
  return all === null ? { body: null, mayBeEmpty } : { body: all, mayBeEmpty }
}

const MAX_LISTED_INTEGERS = 64

/** The values of a schema with few values, as JSON; null if there are many, or they are unknown. */
export function finiteValues({ expander }: SchemaRules, schemas: readonly unknown[]): string[] | null {
  const expanded = expander.expand(schemas)
  if (expanded === null) return null
  const target: ReferenceTarget = (reference, from) => expander.target(reference, from)
  const rest = withoutListedValues(expanded)
  return candidates(expanded, expander)?.filter((json) => rest.every((part) => satisfies(JSON.parse(json), part, target))) ?? null // prettier-ignore
}

/** A superset of the allowed values; null: too many, or unknown. */
function candidates(expanded: Conjunction, expander: SchemaExpander): string[] | null {
  const fixed = fixedValues(expanded)
  if (fixed !== null) return fixed
  const types = commonTypes(expanded)
  if (types !== null && [...types].every((type) => type === 'boolean' || type === 'null'))
    return [...types].flatMap((type) => (type === 'null' ? 'null' : ['true', 'false']))
  if (types?.size === 1 && types.has('integer')) {
    const bounds = (keyword: string) => expanded.flatMap((part) => (typeof part[keyword] === 'number' ? [part[keyword]] : [])) // prettier-ignore
    const low = Math.ceil(Math.max(...bounds('minimum'), ...bounds('exclusiveMinimum')))
    const high = Math.floor(Math.min(...bounds('maximum'), ...bounds('exclusiveMaximum')))
    return high - low < MAX_LISTED_INTEGERS ? Array.from({ length: Math.max(0, high - low + 1) }, (_, i) => String(low + i)) : null // prettier-ignore
  }
  for (const { anyOf, oneOf } of expanded) {
    const branches: unknown = anyOf ?? oneOf
    if (!Array.isArray(branches)) continue
    const each = branches.map((branch: unknown) => {
      const inner = expander.expand([branch])
      return inner === null ? [] : candidates(inner, expander)
    })
    if (!each.includes(null)) return [...new Set(each.flatMap((values) => values ?? []))]
  }
  return null
}
