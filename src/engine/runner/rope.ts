/**
 * Rotary embedding frequencies from the rope parameters of a config. Formulas as in modeling_rope_utils.py of Hugging Face transformers, which names the
 * papers: YaRN (arXiv 2309.00071), LongRoPE (arXiv 2402.13753).
 */
import { ModelError } from './runner.ts'

export interface RopeSpec {
  /** One per rotated pair of dims: angle = position * frequency. */
  readonly inverseFrequencies: Float64Array
  /** Multiplies cos and sin. */
  readonly attentionFactor: number
}

/** The rope parameters of a config in either dialect: `rope_parameters`, or `rope_theta` with `rope_scaling`. */
export interface RopeParameters {
  readonly [key: string]: unknown
}

interface RopeContext {
  readonly path: string
  readonly parameters: RopeParameters
  readonly theta: number
  readonly rotaryDim: number
  /** The config's max_position_embeddings. */
  readonly maxPositions: number
  /** The config's original_max_position_embeddings, used where the rope parameters have none. */
  readonly originalMaxPositions: number | null
  /** Positions that will be served. */
  readonly servedPositions: number
}

function numberOf({ path, parameters }: RopeContext, key: string, fallback?: number): number {
  const value = parameters[key] ?? fallback
  if (typeof value !== 'number' || !Number.isFinite(value)) {
    throw new ModelError(
      `${path}: rope parameter ${key} should be a number, found ${JSON.stringify(parameters[key]) ?? 'nothing'}`,
    )
  }
  return value
}

function baseFrequencies({ theta, rotaryDim }: RopeContext): Float64Array {
  return Float64Array.from({ length: rotaryDim / 2 }, (_, i) => theta ** ((-2 * i) / rotaryDim))
}

function llama3(context: RopeContext): RopeSpec {
  const factor = numberOf(context, 'factor')
  const low = numberOf(context, 'low_freq_factor')
  const high = numberOf(context, 'high_freq_factor')
  const original = numberOf(context, 'original_max_position_embeddings')
  const inverseFrequencies = baseFrequencies(context).map((frequency) => {
    const wavelength = (2 * Math.PI) / frequency
    if (wavelength < original / high) return frequency
    if (wavelength > original / low) return frequency / factor
    const smooth = (original / wavelength - low) / (high - low)
    return ((1 - smooth) * frequency) / factor + smooth * frequency
  })
  return { inverseFrequencies, attentionFactor: 1 }
}

function yarn(context: RopeContext): RopeSpec {
  const { theta, rotaryDim, parameters } = context
  const original = numberOf(
    context,
    'original_max_position_embeddings',
    context.originalMaxPositions ?? context.maxPositions,
  )
  const factor = numberOf(context, 'factor', context.maxPositions / original)
  const mscaleOf = (scale: number, mscale: number): number => (scale <= 1 ? 1 : 0.1 * mscale * Math.log(scale) + 1)
  const both = typeof parameters['mscale'] === 'number' && typeof parameters['mscale_all_dim'] === 'number'
  const inferred = both
    ? mscaleOf(factor, numberOf(context, 'mscale')) / mscaleOf(factor, numberOf(context, 'mscale_all_dim'))
    : mscaleOf(factor, 1)
  // The dim that turns `rotations` times over the original context.
  const dimensionOf = (rotations: number): number =>
    (rotaryDim * Math.log(original / (rotations * 2 * Math.PI))) / (2 * Math.log(theta))
  const truncate = parameters['truncate'] !== false
  const lowest = dimensionOf(numberOf(context, 'beta_fast', 32))
  const highest = dimensionOf(numberOf(context, 'beta_slow', 1))
  const low = Math.max(truncate ? Math.floor(lowest) : lowest, 0)
  const high = Math.min(truncate ? Math.ceil(highest) : highest, rotaryDim - 1)
  const inverseFrequencies = baseFrequencies(context).map((frequency, i) => {
    const ramp = Math.min(1, Math.max(0, (i - low) / (high === low ? 0.001 : high - low)))
    return (frequency / factor) * ramp + frequency * (1 - ramp)
  })
  return { inverseFrequencies, attentionFactor: numberOf(context, 'attention_factor', inferred) }
}

/**
 * Uses the long factors for every position when more than the original context is served, and the short factors otherwise. transformers switches by
 * the current length: then a token's keys would depend on when they were computed, and cached blocks could not be shared.
 */
function longrope(context: RopeContext): RopeSpec {
  const { path, parameters, rotaryDim, maxPositions } = context
  const original = numberOf(context, 'original_max_position_embeddings', context.originalMaxPositions ?? maxPositions)
  const factor = numberOf(context, 'factor', maxPositions / original)
  const key = context.servedPositions > original ? 'long_factor' : 'short_factor'
  const factors = parameters[key]
  if (
    !Array.isArray(factors) ||
    factors.length !== rotaryDim / 2 ||
    !factors.every((value) => typeof value === 'number' && value > 0)
  ) {
    throw new ModelError(`${path}: rope parameter ${key} should be ${rotaryDim / 2} positive numbers`)
  }
  const attentionFactor = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original))
  return {
    inverseFrequencies: baseFrequencies(context).map((frequency, i) => frequency / (factors as number[])[i]!),
    attentionFactor: numberOf(context, 'attention_factor', attentionFactor),
  }
}

/** The frequencies of one kind of layer. @throws ModelError for an unknown scaling */
export function computeRope(context: RopeContext): RopeSpec {
  const type = context.parameters['rope_type'] ?? context.parameters['type'] ?? 'default'
  switch (type) {
    case 'default':
      return { inverseFrequencies: baseFrequencies(context), attentionFactor: 1 }
    case 'linear': {
      const factor = numberOf(context, 'factor')
      return { inverseFrequencies: baseFrequencies(context).map((frequency) => frequency / factor), attentionFactor: 1 }
    }
    case 'ntk': {
      // GTE: the base is raised, and all frequencies are divided so that the slowest pair turns `factor` times as slowly.
      const { theta, rotaryDim } = context
      if ((context.parameters['mixed_b'] ?? null) !== null)
        throw new ModelError(`${context.path}: rope parameter mixed_b should be null`)
      const factor = numberOf(context, 'factor')
      const frequencies = baseFrequencies({ ...context, theta: theta * factor })
      return { inverseFrequencies: frequencies.map((f) => f / factor ** (2 / rotaryDim)), attentionFactor: 1 }
    }
    case 'dynamic': {
      // With alpha, the base is raised for all lengths (Hunyuan). Without, it changes only beyond max_position_embeddings, which is not served.
      const { theta, rotaryDim } = context
      if ((context.parameters['alpha'] ?? null) === null)
        return { inverseFrequencies: baseFrequencies(context), attentionFactor: 1 }
      const stretched = theta * numberOf(context, 'alpha') ** (rotaryDim / (rotaryDim - 2))
      return { inverseFrequencies: baseFrequencies({ ...context, theta: stretched }), attentionFactor: 1 }
    }
    case 'llama3':
      return llama3(context)
    case 'proportional': {
      // Only a share of a head's dims is rotated, with the frequencies that they would have if all were.
      const { rotaryDim } = context
      const numRotated = Math.floor((numberOf(context, 'partial_rotary_factor', 1) * rotaryDim) / 2)
      const factor = numberOf(context, 'factor', 1)
      const inverseFrequencies = baseFrequencies(context).map((frequency, i) =>
        i < numRotated ? frequency / factor : 0,
      )
      return { inverseFrequencies, attentionFactor: 1 }
    }
    case 'yarn':
      return yarn(context)
    case 'longrope':
    case 'su':
      return longrope(context)
    default:
      throw new ModelError(
        `${context.path}: unknown rope scaling ${JSON.stringify(type)}; known: default, linear, llama3, yarn, longrope, proportional, ntk, dynamic`,
      )
  }
}
