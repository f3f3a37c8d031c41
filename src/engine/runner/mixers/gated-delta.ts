/** The gated delta net of Qwen3.5 and Qwen3-Next: linear attention whose state forgets and is corrected, token after token. */
import type { Backend } from '../../../kernels/backend.ts'
import type { Activation, ConvolutionOptions, GatedDeltaOptions, Matrix, Norm } from '../../../kernels/ops.ts'
import { expectValues, type WeightSource } from '../../weights/source.ts'
import { expectLinear, type Part } from '../parameters.ts'
import type { DecoderSpec } from '../spec.ts'
import { convolutionOf, decayRate, expectConvolution, expectDecayRate, loadConvolution } from './state-tensors.ts'
import type { Mixer, MixerParts, MixerPlace } from './mixer.ts'

/** q, k, v = silu(conv(W_qkv h)); y = W_out (norm(delta rule(q, k, v)) silu(W_z h)) */
export interface GatedDeltaSpec {
  readonly kind: 'gatedDelta'
  /** Tokens that a convolution's output depends on. */
  readonly kernel: number
  readonly numKeyHeads: number
  readonly numValueHeads: number
  readonly keyDim: number
  readonly valueDim: number
  readonly normEps: number
  /** Value head h has the key head of h % numKeyHeads, as GGUF files order them; else neighbours share one. */
  readonly tilesKeyHeads: boolean
}

interface Weights {
  /** q, k, v, then the gate. */
  readonly input: Matrix // [convolved + value width, hidden]
  /** beta, then the step. */
  readonly scalars: Matrix // [2 numValueHeads, hidden]
  readonly output: Matrix // [hidden, value width]
}

interface Buffers {
  readonly projected: Activation
  readonly scalars: Activation
  readonly convolved: Activation
  readonly mixed: Activation
}

class GatedDelta implements Mixer {
  readonly #backend: Backend
  readonly #weights: Weights
  readonly #buffers: Buffers
  readonly #convolution: ConvolutionOptions
  readonly #delta: GatedDeltaOptions

  constructor(
    backend: Backend,
    weights: Weights,
    buffers: Buffers,
    convolution: ConvolutionOptions,
    delta: GatedDeltaOptions,
  ) {
    this.#backend = backend
    this.#weights = weights
    this.#buffers = buffers
    this.#convolution = convolution
    this.#delta = delta
  }

  record(hidden: Activation, norm: Norm | undefined, out: Activation): void {
    const backend = this.#backend
    const { projected, scalars, convolved, mixed } = this.#buffers
    backend.linear(projected, hidden, this.#weights.input, { norm })
    backend.linear(scalars, hidden, this.#weights.scalars, { norm })
    backend.convolution(convolved, projected, this.#convolution)
    backend.gatedDelta(mixed, convolved, this.#delta)
    backend.linear(out, mixed, this.#weights.output, { residual: out === hidden })
  }
}

/** @param has whether the model has a tensor */
function tensorsOf(base: string, delta: GatedDeltaSpec, hiddenSize: number, has: (name: string) => boolean) {
  const { numKeyHeads, numValueHeads, keyDim, valueDim, kernel } = delta
  const at = `${base}linear_attn.`
  const valueWidth = numValueHeads * valueDim
  const channels = 2 * numKeyHeads * keyDim + valueWidth
  const perKey = numValueHeads / numKeyHeads
  // Checkpoints of Qwen3-Next have both fused, its GGUF files the scalars alone.
  const input: readonly Part[] = has(`${at}in_proj_qkvz.weight`)
    ? [
        [
          `${at}in_proj_qkvz`,
          channels + valueWidth,
          fusedOrder(numKeyHeads, [keyDim, keyDim, perKey * valueDim, perKey * valueDim]),
        ],
      ]
    : [
        [`${at}in_proj_qkv`, channels],
        [`${at}in_proj_z`, valueWidth],
      ]
  const scalars: readonly Part[] = has(`${at}in_proj_ba.weight`)
    ? [[`${at}in_proj_ba`, 2 * numValueHeads, fusedOrder(numKeyHeads, [perKey, perKey])]]
    : [
        [`${at}in_proj_b`, numValueHeads],
        [`${at}in_proj_a`, numValueHeads],
      ]
  const output: readonly Part[] = [[`${at}out_proj`, hiddenSize]]
  const convolution = { name: `${at}conv1d`, channels, kernel, hasBias: false }
  return { at, valueWidth, channels, input, scalars, output, convolution }
}

/**
 * Qwen3-Next's matrices have, key head after key head, its rows of each part; ours part after part. Which stored row stands at a row.
 * @param sizes rows of each part that a key head has
 */
function fusedOrder(numKeyHeads: number, sizes: readonly number[]): (row: number) => number {
  const total = sizes.reduce((sum, size) => sum + size, 0)
  return (row) => {
    let first = 0
    let left = row
    for (const size of sizes) {
      if (left < numKeyHeads * size) return Math.floor(left / size) * total + first + (left % size)
      left -= numKeyHeads * size
      first += size
    }
    throw new RangeError(`row ${row} of ${numKeyHeads * total}`)
  }
}

/** Checks the tensors. Throws ModelError. */
export function expectGatedDelta(
  source: WeightSource,
  { hiddenSize }: DecoderSpec,
  delta: GatedDeltaSpec,
  base: string,
): void {
  const { at, input, scalars, output, convolution, valueWidth } = tensorsOf(base, delta, hiddenSize, (name) =>
    source.tensors.has(name),
  )
  expectLinear(source, [...input, ...scalars], hiddenSize, false)
  expectLinear(source, output, valueWidth, false)
  expectConvolution(source, convolution)
  expectDecayRate(source, at, delta.numValueHeads)
  expectValues(source, `${at}dt_bias`, delta.numValueHeads)
  expectValues(source, `${at}norm.weight`, delta.valueDim)
}

/** Loads projections, convolution, decay and gate norm. @throws ModelError */
export async function loadGatedDelta(
  { backend, parameters, spec: { hiddenSize } }: MixerParts,
  delta: GatedDeltaSpec,
  { base, memory }: MixerPlace,
): Promise<Mixer> {
  const { at, input, scalars, output, convolution, channels, valueWidth } = tensorsOf(base, delta, hiddenSize, (name) =>
    parameters.has(name),
  )
  const { numKeyHeads, numValueHeads, valueDim, normEps, tilesKeyHeads } = delta
  const weights = {
    input: await parameters.matrix(input, hiddenSize),
    scalars: await parameters.matrix(scalars, hiddenSize),
    output: await parameters.matrix(output, valueWidth),
  }
  const buffers = {
    projected: parameters.activation('projected', channels + valueWidth),
    scalars: parameters.activation('scalars', 2 * numValueHeads),
    convolved: parameters.activation('convolved', channels),
    mixed: parameters.activation('mixed', valueWidth),
  }
  const options: GatedDeltaOptions = {
    layer: memory,
    numKeyHeads,
    tilesKeyHeads,
    decayRate: await decayRate(parameters, at, numValueHeads),
    stepBias: await parameters.vector(`${at}dt_bias`, numValueHeads),
    gate: { x: buffers.projected, offset: channels },
    beta: { x: buffers.scalars, offset: 0 },
    step: { x: buffers.scalars, offset: numValueHeads },
    // Stored as it is meant, unlike the family's other norms.
    norm: { weight: await parameters.vector(`${at}norm.weight`, valueDim), eps: normEps },
  }
  const convolved = convolutionOf(memory, 0, false, await loadConvolution(parameters, convolution))
  return new GatedDelta(backend, weights, buffers, convolved, options)
}
