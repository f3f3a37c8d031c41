/**
 * How models write calls of functions: a format is data. Which one a model was trained on stands in its chat template, which shows earlier
 * calls, and tells of new ones, in that form. Names are those of vLLM's --tool-call-parser where it has one.
 */

export interface ToolCallFormat {
  readonly name: string
  /** A template that this matches shows calls in the format. */
  readonly template: RegExp
  /** Marks around all calls, in their order; white space beside one is written, and any is read. */
  readonly begin: readonly string[]
  readonly end: readonly string[]
  /** Marks around each call. */
  readonly callBegin: readonly string[]
  readonly callEnd: readonly string[]
  /** Stands between two calls. */
  readonly separator: string
  /** `begin` and `end` stand around each call, instead of all of them. */
  readonly isOneByOne: boolean
  /** An answer that begins with a JSON object may be a call without `begin`. */
  readonly isBare: boolean
  /** Models of this format make more than one call in an answer. */
  readonly isParallel: boolean
  readonly body: CallBody
  /** Marks that are read and not written. */
  readonly otherMarks: readonly string[]
  /** What the template accepts as the id of a call when it comes back in a later turn. */
  readonly ids: 'any' | 'nine alphanumerics' | 'name and number'
}

/** A call between its marks. */
export type CallBody = ObjectBody | NamedBody | TaggedBody | LiteralBody

/** `{"name": …, "arguments": {…}}`. All known names of the two members are read; these are written. */
interface ObjectBody {
  readonly kind: 'object'
  readonly nameKey: string
  readonly argumentsKey: string
}

/** The function's name, and its arguments as JSON. */
export interface NamedBody {
  readonly kind: 'named'
  /** Everything before the arguments' first brace, as it is read; its group `name` is the function. */
  readonly header: RegExp
  /** Around the name, as it is written. */
  readonly before: string
  readonly behind: string
}

/** The function's name, and for each argument its name and its value, a string as it is and anything else as JSON. */
export interface TaggedBody {
  readonly kind: 'tagged'
  /** Behind the function's name; '': nothing but a line end, or what comes next. */
  readonly nameEnd: string
  readonly keyBegin: string
  readonly keyEnd: string
  /** Between an argument's name and its value. */
  readonly valueBegin: string
  readonly valueEnd: string
  /** Behind each argument. */
  readonly separator: string
  /** Behind the last one. */
  readonly end: string
}

/** `name(key=value, …)` or `name{key:value,…}`: values are literals. */
export interface LiteralBody {
  readonly kind: 'literal'
  readonly open: string
  readonly close: string
  /** Between an argument's name and its value. */
  readonly keyEnd: string
  readonly separator: string
  /** Stands before and behind a string, which has no escapes then; null: strings are Python's. */
  readonly quote: string | null
}
