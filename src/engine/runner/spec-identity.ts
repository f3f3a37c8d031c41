/** What of a spec goes into a model's identity, under which KV blocks on disk and document indexes are found again. */
import type { EncoderSpec } from './encoder/spec.ts'
import type { DecoderSpec } from './decoder-spec.ts'

/** Fields that specs got after identities were first stored, and what they are in every model that could be served before. */
const LATER_FIELDS: Readonly<Record<string, unknown>> = {
  isBidirectional: false,
  hasExperts: false,
  normsProjection: false,
  relative: null,
  experts: null,
}

/** The spec as text. Fields that it got later are left out where they say nothing new: a model that computes what it did keeps its identity. */
export function specIdentity(spec: DecoderSpec | EncoderSpec): string {
  return JSON.stringify(spec, (key, value: unknown) => {
    const isPlain = Object.hasOwn(LATER_FIELDS, key) && LATER_FIELDS[key] === value
    if (isPlain || (key === 'embeddingSize' && value === spec.hiddenSize)) return undefined
    // Powers differ between versions of Node in their last bit.
    if (key === 'inverseFrequencies') return Array.from(value as ArrayLike<number>, (f) => Number(f.toPrecision(9)))
    return value instanceof Float64Array ? [...value] : value
  })
}
