/** Grammars of strings, with or without quotes. */
import { intersect } from '../patterns/automaton.ts'
import { character, inOrder, regexExpression, text, times, automatonExpression } from '../byte-grammar.ts'
import type { Encoding, Expression, GrammarRules } from '../byte-grammar.ts'
import { EVERY, singleton, difference } from '../patterns/code-points.ts'
import type { CodePoints } from '../patterns/code-points.ts'
import { COUNTED_FORMATS, MAX_COUNTED_FORMAT, STRING_FORMATS } from './formats.ts'
import { literalOf } from '../notation.ts'
import { partialMatch, fullMatch } from '../patterns/regex-anchors.ts'
import { literal, looksAhead, parseRegex, repeat, set } from '../patterns/regex.ts'
import type { Regex } from '../patterns/regex.ts'
import { NOT_PATTERN } from './schema.ts'
import { counts, excludedValues, MAX_COUNTED } from './schema-expander.ts'
import type { Conjunction } from './schema-expander.ts'
import { Unenforceable, Unsatisfiable } from '../unenforceable.ts'
import type { Style } from '../notation.ts'

/** Limit on counted characters among which a forbidden mark is excluded exactly. Above it, its first character is excluded. */
const MAX_EXACT = 300
/** Text that would not be read as a string where strings have no quotes. */
const NO_STRING = '\\s*(?:[-+.\\d{\\["\'(][\\s\\S]*|(?:true|false|null|True|False|None)\\s*)'

/** `excluded`: texts that the string must not be. `mark`: text that it must not contain; null: it is a JSON string. */
export interface InnerOptions {
  readonly excluded?: readonly Regex[]
  readonly mark?: string | null
}

/** Expressions of `string` schemas: length, pattern, format. */
export class JsonStrings {
  readonly #character: Expression
  readonly #note: (problem: string, path: string) => void

  /** `note` is told what is not enforced. */
  constructor(grammar: GrammarRules, note: (problem: string, path: string) => void) {
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
  stringContent(parts: Conjunction, path: string, { excluded = [], mark = null }: InnerOptions = {}): Expression {
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
      if (typeof not === 'string') this.#addPattern(not, forbidden, path)
      if (typeof pattern === 'string') this.#addPattern(pattern, patterns, path)
      else if (pattern !== undefined) throw new Unenforceable('"pattern" that is not a string')
      const known = STRING_FORMATS.get(format)
      if (known !== undefined) {
        formats.push(fullMatch(parseRegex(known)))
        shortFormats.push(fullMatch(parseRegex(COUNTED_FORMATS.get(format) ?? known)))
      }
      if (format === 'regex') this.#note('"format" regex', path)
    }
    const asked = counts(parts, 'minLength', 'maxLength')
    const { least } = asked
    const isTooLong = least > MAX_COUNTED
    if (isTooLong) this.#note(`"minLength" above ${MAX_COUNTED}`, path)
    const most = asked.most < Infinity ? Math.min(asked.most, MAX_COUNTED) : Infinity
    const isCounted = !isTooLong && (least > 0 || most < Infinity)
    if (patterns.length + formats.length + forbidden.length === 0) {
      const [low, high] = isCounted ? [least, most] : [0, Infinity]
      if (mark === null) return times(this.#character, low, high)
      if (isCounted && Math.max(least, most === Infinity ? 0 : most) > MAX_EXACT) return times(character(withoutFirstOf(mark), 'text'), low, high) // prettier-ignore
    }
    const lengths = isCounted ? [repeat(set(EVERY), least, most)] : []
    const shortLengths =
      formats.length > 0 && least <= MAX_COUNTED_FORMAT
        ? [repeat(set(EVERY), least, Math.min(most, MAX_COUNTED_FORMAT))]
        : lengths
    const wishes = [
      { languages: [...patterns, ...formats, ...lengths], omits: null },
      { languages: [...patterns, ...shortFormats, ...shortLengths], omits: null },
      { languages: [...formats, ...lengths], omits: '"pattern" beside "format" or a length' },
      { languages: [...patterns, ...lengths], omits: '"format" beside "pattern" or a length' },
    ]
    return this.#firstCompilable(wishes, forbidden, mark, path)
  }

  #addPattern(pattern: string, patterns: Regex[], path: string): void {
    try {
      patterns.push(partialMatch(parseRegex(pattern)))
    } catch (error) {
      if (!(error instanceof Unenforceable)) throw error
      this.#note(`"pattern" with ${error.message}`, path)
    }
  }

  /** The first conjunction that can be compiled. What a later one omits is reported as not enforced. */
  #firstCompilable(
    conjunctions: readonly { readonly languages: readonly Regex[]; readonly omits: string | null }[],
    excluded: readonly Regex[],
    mark: string | null,
    path: string,
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
          const automaton = intersect(own, others)
          if (automaton !== null) return this.#reportOmitted(omits, automatonExpression(automaton, encoding), path)
        } catch (error) {
          if (!(error instanceof Unenforceable)) throw error
          const [only] = own
          if (only !== undefined && own.length === 1 && others.length === 0 && !looksAhead(only))
            return this.#reportOmitted(omits, regexExpression(only, encoding), path)
          why = error.message
        }
      }
    }
    if (why === null) throw new Unsatisfiable('rules for a string that no string satisfies')
    this.#note(`"pattern", "format" or "not": ${why}`, path)
    return mark === null
      ? times(this.#character, 0, Infinity)
      : times(character(withoutFirstOf(mark), 'text'), 0, Infinity)
  }

  #reportOmitted(omits: string | null, found: Expression, path: string): Expression {
    if (omits !== null) this.#note(omits, path)
    return found
  }
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
export function literalIn(value: unknown, { notation, raw }: Style): string | null {
  if (raw === null || typeof value !== 'string') return literalOf(value, notation, false)
  const isMisread = raw.kind === 'mixed' && new RegExp(`^${NO_STRING}$`, 'u').test(value)
  return isMisread || value.includes(raw.end) ? null : literalOf(value, notation, true)
}
