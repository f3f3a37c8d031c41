/**
 * How models write function calls. A format is data. The chat template shows which one a model was trained on, because it renders earlier
 * calls in that format. Formats have the names of vLLM's --tool-call-parser where vLLM has them.
 */

export interface ToolCallFormat {
  readonly name: string
  /** Matches the chat templates that render calls in this format. */
  readonly template: RegExp
  /** Markers around all calls, in order. White space beside a marker is written as given; any white space is read. */
  readonly begin: readonly string[]
  readonly end: readonly string[]
  /** Markers around each call. */
  readonly callBegin: readonly string[]
  readonly callEnd: readonly string[]
  /** Between two calls. */
  readonly separator: string
  /** `begin` and `end` enclose each call separately, not all calls together. */
  readonly isOneByOne: boolean
  /** A JSON object at the beginning of an answer may be a call even without `begin`. */
  readonly isBare: boolean
  /** Models with this format can make several calls in one answer. */
  readonly isParallel: boolean
  readonly body: CallBody
  /** Markers that are read but never written. */
  readonly otherMarkers: readonly string[]
  /** What the template accepts as a call's id when a later turn sends it back. */
  readonly ids: 'any' | 'nine alphanumerics' | 'name and number'
}

/** A call without its markers. */
export type CallBody = ObjectBody | NamedBody | TaggedBody | LiteralBody

/** `{"name": …, "arguments": {…}}`. All known names of the two members are read; these names are written. */
interface ObjectBody {
  readonly kind: 'object'
  readonly nameKey: string
  readonly argumentsKey: string
}

/** The function's name, then its arguments as JSON. */
export interface NamedBody {
  readonly kind: 'named'
  /** Matches everything before the opening brace of the arguments. Its group `name` is the function. */
  readonly header: RegExp
  /** Written before and after the name. */
  readonly before: string
  readonly after: string
}

/** The function's name, then the name and value of each argument: strings without quotes, anything else as JSON. */
export interface TaggedBody {
  readonly kind: 'tagged'
  /** After the function's name; '': a line end, or what follows, ends the name. */
  readonly nameEnd: string
  readonly keyBegin: string
  readonly keyEnd: string
  /** Between an argument's name and its value. */
  readonly valueBegin: string
  readonly valueEnd: string
  /** After each argument. */
  readonly separator: string
  /** After the last argument. */
  readonly end: string
}

/** `name(key=value, …)` or `name{key:value,…}`, where values are literals. */
export interface LiteralBody {
  readonly kind: 'literal'
  readonly open: string
  readonly close: string
  /** Between an argument's name and its value. */
  readonly keyEnd: string
  readonly separator: string
  /** Delimits strings, which then have no escapes; null: strings are written as in Python. */
  readonly quote: string | null
}
