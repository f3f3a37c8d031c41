/** How values are written: as JSON, or as the arguments of calls in the forms that models were trained on. */
import type { ParameterKind } from '../tool-calls/parameter-kind.ts'
import type { LiteralBody, TaggedBody } from '../tool-calls/tool-call-format.ts'
import { character, inOrder, NOTHING, oneOf, optional, text, times } from './byte-grammar.ts'
import type { Expression, GrammarRules } from './byte-grammar.ts'
import { isSchema } from './json-schema/schema.ts'

/** The brackets of an object or a list, and what separates its members. */
export interface Brackets {
  readonly open: string
  readonly close: string
  readonly comma: Expression
  readonly gap: Expression
}

export interface Notation {
  readonly object: Brackets
  readonly list: Brackets
  /** Before the name of a member, between the name and the value, and behind the value. */
  readonly member: { readonly begin: string; readonly colon: Expression; readonly end: string }
  /** Characters that unquoted names cannot contain; null: names are quoted as strings. */
  readonly bareKeysWithout: RegExp | null
  /** Delimits strings, which then have no escapes and cannot contain it; null: strings are written as in JSON. */
  readonly quote: { readonly open: string; readonly close: string } | null
  readonly words: { readonly true: string; readonly false: string; readonly null: string }
  /** The notation of member values; null: the same. */
  readonly inner: Notation | null
  /** The end of strings that are members and have no quotes; null: they have quotes. */
  readonly rawEnd: string | null
}

/** A value of a schema while its grammar is built. */
export interface ValueContext {
  readonly path: string
  readonly depth: number
  readonly style: Style
}

/** How a value is written at its place. `raw`: strings have no quotes there, and end with `end`. */
export interface Style {
  readonly notation: Notation
  readonly raw: { readonly kind: ParameterKind; readonly end: string } | null
}

const JSON_WORDS = { true: 'true', false: 'false', null: 'null' } as const

/** A space, or a line end and an indentation: enough for every way of writing JSON, not enough to never finish. */
const BLANK = character([[0x09, 0x09], [0x20, 0x20]], 'text') // prettier-ignore
const GAP = times(oneOf(text(' '), inOrder(text('\n'), times(BLANK, 0, 16))), 0, 1)

/** JSON; `free`: with white space where a model likes it, otherwise spaced as templates write it: `{"a": 1, "b": [2, 3]}`. */
export function jsonNotation(grammar: GrammarRules, spacing: 'free' | 'line'): Notation {
  const gap = spacing === 'free' ? grammar.rule(GAP) : NOTHING
  const comma = spacing === 'free' ? inOrder(text(','), gap) : text(', ')
  const colon = spacing === 'free' ? inOrder(text(':'), optional(text(' '))) : text(': ')
  return {
    object: { open: '{', close: '}', comma, gap },
    list: { open: '[', close: ']', comma, gap },
    member: { begin: '', colon, end: '' },
    bareKeysWithout: null,
    quote: null,
    words: JSON_WORDS,
    inner: null,
    rawEnd: null,
  }
}

/** The arguments of a call: their brackets stand outside. */
export function argumentsNotation(body: TaggedBody | LiteralBody, grammar: GrammarRules): Notation {
  return body.kind === 'tagged' ? taggedNotation(body, grammar) : literalNotation(body)
}

function taggedNotation(body: TaggedBody, grammar: GrammarRules): Notation {
  const { keyBegin, keyEnd, valueBegin, valueEnd, separator } = body
  const json = jsonNotation(grammar, 'line')
  return {
    ...json,
    object: { open: '', close: '', comma: NOTHING, gap: NOTHING },
    member: { begin: keyBegin, colon: text(keyEnd + valueBegin), end: valueEnd + separator },
    bareKeysWithout: /[<>"\s]/,
    inner: json,
    rawEnd: valueEnd.trim(),
  }
}

function literalNotation({ keyEnd, separator, quote }: LiteralBody): Notation {
  const comma = text(separator)
  const brackets = (open: string, close: string) => ({ open, close, comma, gap: NOTHING })
  const own: Notation = {
    object: brackets('{', '}'),
    list: brackets('[', ']'),
    member: { begin: '', colon: text(quote === null ? ': ' : keyEnd), end: '' },
    bareKeysWithout: quote === null ? null : /[:,{}[\]<\s]/,
    quote: quote === null ? null : { open: quote, close: quote },
    words: quote === null ? { true: 'True', false: 'False', null: 'None' } : JSON_WORDS,
    inner: null,
    rawEnd: null,
  }
  return {
    ...own,
    object: brackets('', ''),
    member: { begin: '', colon: text(keyEnd), end: '' },
    bareKeysWithout: quote === null ? /[()[\]{},="'\s]/ : own.bareKeysWithout,
    inner: own,
  }
}

/** A fixed value in the notation, spaced as the notation allows; null: the notation cannot express it. */
export function literalOf(value: unknown, notation: Notation, isRaw: boolean): Expression | null {
  if (value === null) return text(notation.words.null)
  if (typeof value === 'boolean') return text(notation.words[`${value}`])
  if (typeof value === 'number') return text(JSON.stringify(value))
  if (typeof value === 'string') {
    const { quote } = notation
    if (isRaw) return text(value)
    if (quote === null) return text(JSON.stringify(value))
    return value.includes(quote.open) ? null : text(quote.open + value + quote.close)
  }
  const inner = notation.inner ?? notation
  const { object, list, member } = inner
  if (Array.isArray(value)) return withinBrackets(value.map((item) => literalOf(item, inner, false)), list) // prettier-ignore
  if (!isSchema(value)) return null
  const members = Object.entries(value).map(([key, item]) => {
    const written = literalOf(item, inner, false)
    const name = keyOf(key, inner)
    return written === null || name === null ? null : inOrder(text(name), member.colon, written)
  })
  return withinBrackets(members, object)
}

function withinBrackets(
  parts: readonly (Expression | null)[],
  { open, close, comma, gap }: Brackets,
): Expression | null {
  const written = parts.filter((part) => part !== null)
  if (written.length < parts.length) return null
  if (written.length === 0) return text(open + close)
  const items = written.flatMap((part, i) => (i === 0 ? [part] : [comma, part]))
  return inOrder(text(open), gap, ...items, gap, text(close))
}

/** A member's name in the notation; null: the notation cannot express it. */
export function keyOf(key: string, { bareKeysWithout }: Notation): string | null {
  if (bareKeysWithout === null) return JSON.stringify(key)
  return key === '' || bareKeysWithout.test(key) ? null : key
}
