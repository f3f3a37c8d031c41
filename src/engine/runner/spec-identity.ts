/** The part of a model's identity that its spec gives. KV blocks on disk and document indexes are found again by that identity. */
import type { EncoderSpec } from './encoder/spec.ts'
import type { DecoderSpec } from './decoder-spec.ts'

/** Fields that were added to specs after identities had been stored, with their value in every model that could be served before. */
const LATER_FIELDS: Readonly<Record<string, unknown>> = {
  isBidirectional: false,
  hasExperts: false,
  normsProjection: false,
  relative: null,
  experts: null,
}

/** The spec as text. Later fields are left out where they have the value above, so that a model which computes the same keeps its identity. */
export function specIdentity(spec: DecoderSpec | EncoderSpec): string {
  return JSON.stringify(spec, (key, value: unknown) => {
    const isPlain = Object.hasOwn(LATER_FIELDS, key) && LATER_FIELDS[key] === value
    if (isPlain || (key === 'embeddingSize' && value === spec.hiddenSize)) return undefined
    // The last bit of a power differs between versions of Node.
    if (key === 'inverseFrequencies') return Array.from(value as ArrayLike<number>, (f) => Number(f.toPrecision(9)))
    return value instanceof Float64Array ? [...value] : value
  })
}
