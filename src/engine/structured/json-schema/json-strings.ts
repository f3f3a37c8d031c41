/** Grammars of strings, with or without quotes. */
import { intersect } from '../patterns/automaton.ts'
import {
  automatonExpression,
  character,
  inOrder,
  MAX_AUTOMATON_CHARACTERS,
  patternExpression,
  text,
  times,
} from '../byte-grammar.ts'
import type { Encoding, Expression, GrammarRules } from '../byte-grammar.ts'
import { EVERY, singleton, difference } from '../patterns/code-points.ts'
import type { CodePoints } from '../patterns/code-points.ts'
import { COUNTED_FORMATS, MAX_COUNTED_FORMAT, STRING_FORMATS } from './formats.ts'
import { literalOf } from '../notation.ts'
import { partialMatch, fullMatch } from '../patterns/regex-anchors.ts'
import { lengthsOf, literal, parseRegex, positions, repeat, set } from '../patterns/regex.ts'
import type { Regex } from '../patterns/regex.ts'
import { NOT_PATTERN, NOT_VALUES } from './schema.ts'
import { counts, excludedValues, MAX_COUNTED } from './schema-expander.ts'
import type { Conjunction } from './schema-expander.ts'
import { Unenforceable, Unsatisfiable } from '../unenforceable.ts'
import type { Style } from '../notation.ts'

/** Limit on counted characters among which a forbidden mark is excluded exactly. Above it, its first character is excluded. */
const MAX_EXACT = 300
/** Text that would not be read as a string where strings have no quotes. */
const NO_STRING = '\\s*(?:[-+.\\d{\\["\'(][\\s\\S]*|(?:true|false|null|True|False|None)\\s*)'

/** Keywords that a string's content depends on. */
const STRING_KEYWORDS = ['pattern', 'format', 'minLength', 'maxLength', NOT_PATTERN, NOT_VALUES] as const

/** `excluded`: texts that the string must not be. `mark`: text that it must not contain; null: it is a JSON string. */
export interface InnerOptions {
  readonly excluded?: readonly Regex[]
  readonly mark?: string | null
}

/** Expressions of `string` schemas: length, pattern, format. */
export class JsonStrings {
  readonly #grammar: GrammarRules
  readonly #character: Expression
  readonly #note: (problem: string, path: string) => void
  /** What equal rules were made into, with what is not enforced of them: a format may take a tenth of a second. */
  readonly #known = new Map<string, { readonly content: Expression; readonly problems: readonly string[] }>()
  #problems: string[] = []

  /** `note` is told what is not enforced. */
  constructor(grammar: GrammarRules, note: (problem: string, path: string) => void) {
    this.#grammar = grammar
    this.#character = grammar.rule(character(EVERY, 'json'))
    this.#note = note
  }

  /** A string with its quotes, if it has any. */
  string(parts: Conjunction, path: string, { notation, raw }: Style): Expression {
    const { quote } = notation
    if (raw !== null) {
      const excluded = raw.kind === 'mixed' ? [fullMatch(parseRegex(NO_STRING))] : []
      return this.stringContent(parts, path, { excluded, mark: raw.end })
    }
    if (quote === null) return inOrder(text('"'), this.stringContent(parts, path), text('"'))
    return inOrder(text(quote.open), this.stringContent(parts, path, { mark: quote.close }), text(quote.close))
  }

  /**
   * The content of a string, without its quotes. It is none of the `excluded` texts and does not contain `mark`.
   * @throws Unenforceable
   */
  stringContent(parts: Conjunction, path: string, options: InnerOptions = {}): Expression {
    const { excluded = [], mark = null } = options
    const rules = parts.map((part) => STRING_KEYWORDS.map((keyword) => part[keyword]))
    const key = JSON.stringify([rules, excluded, mark])
    let known = this.#known.get(key)
    if (known === undefined) {
      this.#problems = []
      const content = this.#grammar.rule(this.#content(parts, options))
      known = { content, problems: this.#problems }
      this.#known.set(key, known)
    }
    for (const problem of known.problems) this.#note(problem, path)
    return known.content
  }

  #content(parts: Conjunction, { excluded = [], mark = null }: InnerOptions): Expression {
    const patterns: Regex[] = []
    const formats: Regex[] = []
    const shortFormats: Regex[] = []
    const unwanted = excludedValues(parts)
      .filter((value) => typeof value === 'string')
      .map((value) => literal(value))
    const forbidden = [...excluded, ...unwanted]
    for (const part of parts) {
      const { pattern, format } = part
      const not = part[NOT_PATTERN]
      if (typeof not === 'string') this.#addPattern(not, forbidden)
      if (typeof pattern === 'string') this.#addPattern(pattern, patterns)
      else if (pattern !== undefined) throw new Unenforceable('"pattern" that is not a string')
      const known = STRING_FORMATS.get(format)
      if (known !== undefined) {
        formats.push(fullMatch(parseRegex(known)))
        shortFormats.push(fullMatch(parseRegex(COUNTED_FORMATS.get(format) ?? known)))
      }
      if (format === 'regex') this.#problems.push('"format" regex')
    }
    const asked = counts(parts, 'minLength', 'maxLength')
    const isTooLong = asked.least > MAX_COUNTED
    if (isTooLong) this.#problems.push(`"minLength" above ${MAX_COUNTED}`)
    const isCounted = !isTooLong && (asked.least > 0 || asked.most < Infinity)
    const least = isCounted ? asked.least : 0
    const most = isCounted && asked.most < Infinity ? Math.min(asked.most, MAX_COUNTED) : Infinity
    if (patterns.length + formats.length + forbidden.length === 0) {
      if (mark === null) return times(this.#character, least, most)
      if (isCounted && Math.max(least, most === Infinity ? 0 : most) > MAX_EXACT) return times(character(withoutFirstOf(mark), 'text'), least, most) // prettier-ignore
    }
    const lengths = lengthsBetween(least, most)
    const isShort = formats.length > 0 && least <= MAX_COUNTED_FORMAT
    const shortLengths = isShort ? lengthsBetween(least, Math.min(most, MAX_COUNTED_FORMAT)) : lengths
    // A length that every text of a format has anyway need not be counted.
    const own = formats.map(lengthsOf)
    const isLongEnough = own.some((format) => format.least >= least)
    const isShortEnough = own.some((format) => format.most <= most)
    const leftLengths = lengthsBetween(isLongEnough ? 0 : least, isShortEnough ? Infinity : most)
    const whole = { languages: [...patterns, ...formats, ...leftLengths], omits: null }
    // Beside another language, a long format would take seconds and then too many states.
    const isTooLarge =
      whole.languages.length > 1 && formats.some((format) => positions(format) > MAX_AUTOMATON_CHARACTERS)
    const wishes = [
      ...(isTooLarge ? [] : [whole]),
      { languages: [...patterns, ...shortFormats, ...shortLengths], omits: null },
      { languages: [...formats, ...leftLengths], omits: '"pattern" beside "format" or a length' },
      { languages: [...patterns, ...lengths], omits: '"format" beside "pattern" or a length' },
    ]
    return this.#firstCompilable(wishes, forbidden, mark)
  }

  #addPattern(pattern: string, patterns: Regex[]): void {
    try {
      patterns.push(partialMatch(parseRegex(pattern)))
    } catch (error) {
      if (!(error instanceof Unenforceable)) throw error
      this.#problems.push(`"pattern" with ${error.message}`)
    }
  }

  /** The first conjunction that can be compiled. What a later one omits is reported as not enforced. */
  #firstCompilable(
    conjunctions: readonly { readonly languages: readonly Regex[]; readonly omits: string | null }[],
    excluded: readonly Regex[],
    mark: string | null,
  ): Expression {
    let why: string | null = null
    const encoding: Encoding = mark === null ? 'json' : 'text'
    const anything = [repeat(set(EVERY), 0, Infinity)]
    for (const { languages, omits } of conjunctions) {
      if (languages.length === 0 && excluded.length === 0 && mark === null) continue
      const all = languages.length === 0 ? anything : languages
      // Excluding a mark from a long text may take too many states. Then its first character is excluded instead.
      const ways = mark === null ? [[all, excluded]] : [[all, [...excluded, partialMatch(literal(mark))]], [[...all, repeat(set(withoutFirstOf(mark)), 0, Infinity)], excluded]] // prettier-ignore
      for (const [own = [], others = []] of ways) {
        try {
          const [only] = own
          const made = own.length === 1 && only !== undefined && others.length === 0 ? patternExpression(only, encoding) : conjunctionExpression(own, others, encoding) // prettier-ignore
          if (made !== null) return this.#reportOmitted(omits, made)
        } catch (error) {
          if (!(error instanceof Unenforceable)) throw error
          why = error.message
        }
      }
    }
    if (why === null) throw new Unsatisfiable('rules for a string that no string satisfies')
    this.#problems.push(`"pattern", "format" or "not": ${why}`)
    return mark === null
      ? times(this.#character, 0, Infinity)
      : times(character(withoutFirstOf(mark), 'text'), 0, Infinity)
  }

  #reportOmitted(omits: string | null, found: Expression): Expression {
    if (omits !== null) this.#problems.push(omits)
    return found
  }
}

function conjunctionExpression(own: readonly Regex[], others: readonly Regex[], encoding: Encoding): Expression | null {
  const automaton = intersect(own, others)
  return automaton === null ? null : automatonExpression(automaton, encoding)
}

/** Any text within these lengths, unless they are no limit. */
function lengthsBetween(least: number, most: number): Regex[] {
  return least > 0 || most < Infinity ? [repeat(set(EVERY), least, most)] : []
}

/** A name without quotes. */
export function bareKey(): Expression {
  return automatonExpression(
    intersect([fullMatch(parseRegex('[A-Za-z_][A-Za-z0-9_]{0,63}'))]) ?? { states: [] },
    'text',
  )
}

/** All characters but the first one of the mark. */
function withoutFirstOf(mark: string): CodePoints {
  return difference(EVERY, singleton(mark.codePointAt(0) ?? 0))
}

/** A fixed value in its notation; null: the notation cannot express it. */
export function literalIn(value: unknown, { notation, raw }: Style): Expression | null {
  if (raw === null || typeof value !== 'string') return literalOf(value, notation, false)
  const isMisread = raw.kind === 'mixed' && new RegExp(`^${NO_STRING}$`, 'u').test(value)
  return isMisread || value.includes(raw.end) ? null : literalOf(value, notation, true)
}
