/**
 * The span contract as data: spans, parents, attributes, events and levels of detail. Emission (typed at compile time), the tests,
 * `miniserve trace validate`, the waterfall page and docs/span-contract.md all read it. The rows are in contract/, one file per part of
 * the tree. The table of endings is in endings.ts.
 *
 * Attributes marked `convention` and the aliases are OpenTelemetry's semantic conventions: HTTP of v1.44.0, GenAI of
 * open-telemetry/semantic-conventions-genai at 024a4f9 (client-inference) and 32c328e (migration).
 */
import { ENGINE_SPANS } from './contract/engine-spans.ts'
import { ROOT_SPANS } from './contract/root-spans.ts'
import { type AttributeType, type ContractLevel, CONTRACT_LEVELS, type SpanSpec } from './contract/span-spec.ts'
import { STAGE_SPANS } from './contract/stage-spans.ts'
import { STEP_SPANS } from './contract/step-spans.ts'

/** Instrumentation scope of the contract's spans. */
export const SCOPE_NAME = 'lynx-cortex.miniserve'

/** The version of the conventions that resource and spans follow. */
export const SCHEMA_URL = 'https://opentelemetry.io/schemas/1.44.0'

export const ROOT_SPAN = 'http.handler'

/** In the order in which a request goes through them, which is the order of docs and pages. */
export const SPANS = {
  ...ROOT_SPANS,
  'tokenize.input': STAGE_SPANS['tokenize.input'],
  'rag.retrieve': STAGE_SPANS['rag.retrieve'],
  'embed.query': STAGE_SPANS['embed.query'],
  'vector.search': STAGE_SPANS['vector.search'],
  rerank: STAGE_SPANS.rerank,
  ...ENGINE_SPANS,
  'format.output': STAGE_SPANS['format.output'],
  ...STEP_SPANS,
} as const satisfies Readonly<Record<string, SpanSpec>>

export type SpanName = keyof typeof SPANS
/** Spans that code opens around its own work. */
export type StageName = keyof typeof STAGE_SPANS

interface ValueOf {
  string: string
  int: number
  double: number
  boolean: boolean
  'string[]': readonly string[]
}
type SpecsOf<N extends SpanName> = (typeof SPANS)[N]['attributes']
/** The attributes of a span, typed by the contract. */
export type SpanAttributes<N extends SpanName> = {
  readonly [K in keyof SpecsOf<N>]?: SpecsOf<N>[K] extends { readonly type: infer T extends AttributeType }
    ? ValueOf[T]
    : never
}

export type AttributeValue = string | number | boolean | readonly string[]

/** The table without literal types, for code that iterates over it. */
export const SPAN_TABLE: Readonly<Record<string, SpanSpec>> = SPANS

/** Attributes with constant values, which the conventions require. */
export const CONSTANT_ATTRIBUTES: Readonly<Partial<Record<SpanName, Readonly<Record<string, string>>>>> = {
  'rag.retrieve': { 'gen_ai.operation.name': 'retrieval', 'gen_ai.provider.name': 'miniserve' },
  'embed.query': { 'gen_ai.operation.name': 'embeddings', 'gen_ai.provider.name': 'miniserve' },
}

/** Names of all attributes that are exported as doubles, even if their value is whole. */
export const DOUBLE_ATTRIBUTES: ReadonlySet<string> = new Set(
  Object.values(SPAN_TABLE).flatMap((span) =>
    Object.entries(span.attributes).flatMap(([name, spec]) =>
      spec.type === 'double' ? [name, ...(spec.alias ?? [])] : [],
    ),
  ),
)

/** The row of a span name; undefined if the name is not in the contract. */
export const specOf = (name: string): SpanSpec | undefined =>
  Object.hasOwn(SPAN_TABLE, name) ? SPAN_TABLE[name] : undefined

/** The lowest level that includes all of these spans. Names outside the contract are ignored. */
export function levelOf(names: Iterable<string>): ContractLevel {
  const specs = [...new Set(names)].flatMap((name) => specOf(name) ?? [])
  return CONTRACT_LEVELS.find((level) => specs.every((spec) => isInLevel(spec, level))) ?? 'contract'
}

/** Whether a level includes a span. */
export const isInLevel = (span: SpanSpec, level: ContractLevel): boolean =>
  CONTRACT_LEVELS.indexOf(span.level) <= CONTRACT_LEVELS.indexOf(level)
