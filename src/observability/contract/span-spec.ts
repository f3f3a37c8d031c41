/** The form of the span contract's rows: their types, and short ways to write their values. */

export type TraceDetail = 'off' | 'contract' | 'steps' | 'kernels'
/** Levels that a trace can be validated at. Each level includes the ones before it. */
export type ContractLevel = Exclude<TraceDetail, 'off'>
export const CONTRACT_LEVELS: readonly ContractLevel[] = ['contract', 'steps', 'kernels']

export type AttributeType = 'string' | 'int' | 'double' | 'boolean' | 'string[]'

/**
 * When a span has an attribute: `always`; `completed`: if the span succeeded and the request was served; `accepted`: if the
 * engine accepted the request (never on refused or scored requests); `optional`: where it applies, as the meaning says.
 */
type Presence = 'always' | 'completed' | 'accepted' | 'optional'

export interface AttributeSpec {
  readonly type: AttributeType
  readonly when: Presence
  readonly meaning: string
  /** Names of current conventions that carry the same value. */
  readonly alias?: readonly string[]
  /** The name itself is a current convention's, not the contract's. */
  readonly convention?: true
  /** Omitted unless content is captured. Not shortened to the length limit of other strings. */
  readonly isContent?: true
  /** An integer that may be negative: most are counts. */
  readonly isSigned?: true
  /** The allowed values. */
  readonly oneOf?: readonly string[]
}

interface EventSpec {
  readonly meaning: string
  readonly attributes: Readonly<Record<string, AttributeSpec>>
}

export interface SpanSpec {
  /** Name of the span directly above; null: a root. */
  readonly parent: string | null
  /** Other allowed parents, if there is no span named `parent`. */
  readonly orParents: readonly string[]
  readonly kind: 'server' | 'internal'
  readonly level: ContractLevel
  readonly when: string
  /** At most once below one root. */
  readonly single: boolean
  /** Its interval need not lie inside its parent's. */
  readonly mayOutliveParent: boolean
  /** Name of the log line written when the span ends well. */
  readonly logEvent: string | null
  readonly attributes: Readonly<Record<string, AttributeSpec>>
  readonly events: Readonly<Record<string, EventSpec>>
}

export const string = (when: Presence, meaning: string, more: Partial<AttributeSpec> = {}) =>
  ({ type: 'string', when, meaning, ...more }) as const
export const int = (when: Presence, meaning: string, more: Partial<AttributeSpec> = {}) =>
  ({ type: 'int', when, meaning, ...more }) as const
export const double = (when: Presence, meaning: string, more: Partial<AttributeSpec> = {}) =>
  ({ type: 'double', when, meaning, ...more }) as const
export const boolean = (when: Presence, meaning: string, more: Partial<AttributeSpec> = {}) =>
  ({ type: 'boolean', when, meaning, ...more }) as const
export const strings = (when: Presence, meaning: string, more: Partial<AttributeSpec> = {}) =>
  ({ type: 'string[]', when, meaning, ...more }) as const
export const convention = { convention: true } as const

/** An attribute that holds content, such as prompts and outputs. */
export const content = (meaning: string) =>
  string('optional', `${meaning}; only with MINISERVE_CAPTURE_CONTENT=true`, { convention: true, isContent: true })

/** error.type of a span with status ERROR. */
export const errorType = string('optional', 'why the span ended in an error', convention)

/** The event on a span that ended in an error. */
export const exception = {
  meaning: 'the error behind an ERROR status',
  attributes: {
    'exception.type': string('always', 'class of the error'),
    'exception.message': string('optional', "the message of an error of this project's own, else its stable code"),
    'exception.stacktrace': string('optional', 'frames, without the message'),
  },
} as const

/** What most spans have in common. A row spreads it, and then names what is different. */
export const childSpan = {
  orParents: [],
  kind: 'internal',
  level: 'contract',
  single: true,
  mayOutliveParent: false,
  logEvent: null,
  events: { exception },
} as const

/** A span directly below the root. */
export const rootChild = { ...childSpan, parent: 'http.handler' } as const
