/** Mamba-2: a selective state space, token after token. Granite 4's layers without attention. */
import type { Backend } from '../../../kernels/backend.ts'
import type {
  Activation,
  ConvolutionOptions,
  Matrix,
  Norm,
  SelectiveScanOptions,
  Vector,
} from '../../../kernels/ops.ts'
import { expectValues, type WeightSource } from '../../weights/source.ts'
import { expectLinear } from '../parameters.ts'
import type { DecoderSpec } from '../spec.ts'
import { convolutionOf, decayRate, expectConvolution, expectDecayRate, loadConvolution } from './state-tensors.ts'
import type { Mixer, MixerParts, MixerPlace } from './mixer.ts'

/** z, xBC, dt = W_in h; x, B, C = silu(conv(xBC)); y = W_out norm(scan(x, B, C, dt) silu(z)) */
export interface Mamba2Spec {
  readonly kind: 'mamba2'
  /** Tokens that a convolution's output depends on. */
  readonly kernel: number
  readonly hasConvBias: boolean
  /** Of W_in and W_out. */
  readonly hasBias: boolean
  readonly numHeads: number
  readonly headDim: number
  /** Heads of a group share B and C. */
  readonly numGroups: number
  readonly stateDim: number
  readonly normEps: number
}

interface Weights {
  readonly input: Matrix // [2 width + 2 numGroups stateDim + numHeads, hidden]
  readonly inputBias: Vector | undefined
  readonly output: Matrix // [hidden, width]
  readonly outputBias: Vector | undefined
}

interface Buffers {
  readonly projected: Activation
  readonly convolved: Activation
  readonly mixed: Activation
}

class Mamba2 implements Mixer {
  readonly #backend: Backend
  readonly #weights: Weights
  readonly #buffers: Buffers
  readonly #convolution: ConvolutionOptions
  readonly #scan: SelectiveScanOptions

  constructor(
    backend: Backend,
    weights: Weights,
    buffers: Buffers,
    convolution: ConvolutionOptions,
    scan: SelectiveScanOptions,
  ) {
    this.#backend = backend
    this.#weights = weights
    this.#buffers = buffers
    this.#convolution = convolution
    this.#scan = scan
  }

  record(hidden: Activation, norm: Norm | undefined, out: Activation): void {
    const backend = this.#backend
    const { input, inputBias, output, outputBias } = this.#weights
    const { projected, convolved, mixed } = this.#buffers
    backend.linear(projected, hidden, input, { norm, bias: inputBias })
    backend.convolution(convolved, projected, this.#convolution)
    backend.selectiveScan(mixed, convolved, this.#scan)
    backend.linear(out, mixed, output, { bias: outputBias, residual: out === hidden })
  }
}

function tensorsOf(base: string, mamba: Mamba2Spec, hiddenSize: number) {
  const { numHeads, headDim, numGroups, stateDim, kernel, hasConvBias } = mamba
  const at = `${base}mamba.`
  const width = numHeads * headDim
  const channels = width + 2 * numGroups * stateDim
  return {
    at,
    width,
    channels,
    input: [[`${at}in_proj`, width + channels + numHeads]],
    output: [[`${at}out_proj`, hiddenSize]],
    convolution: { name: `${at}conv1d`, channels, kernel, hasBias: hasConvBias },
  } as const
}

/** Checks the tensors. Throws ModelError. */
export function expectMamba2(source: WeightSource, { hiddenSize }: DecoderSpec, mamba: Mamba2Spec, base: string): void {
  const { at, input, output, convolution, width } = tensorsOf(base, mamba, hiddenSize)
  expectLinear(source, input, hiddenSize, mamba.hasBias)
  expectLinear(source, output, width, mamba.hasBias)
  expectConvolution(source, convolution)
  expectDecayRate(source, at, mamba.numHeads)
  expectValues(source, `${at}D`, mamba.numHeads)
  expectValues(source, `${at}dt_bias`, mamba.numHeads)
  expectValues(source, `${at}norm.weight`, width)
}

/** Loads projections, convolution, decay, skip and gate norm. @throws ModelError */
export async function loadMamba2(
  { backend, parameters, spec: { hiddenSize } }: MixerParts,
  mamba: Mamba2Spec,
  { base, memory }: MixerPlace,
): Promise<Mixer> {
  const { at, input, output, convolution, channels, width } = tensorsOf(base, mamba, hiddenSize)
  const { numHeads, numGroups, hasBias, normEps } = mamba
  const weights = {
    input: await parameters.matrix(input, hiddenSize),
    inputBias: await parameters.bias(hasBias, input),
    output: await parameters.matrix(output, width),
    outputBias: await parameters.bias(hasBias, output),
  }
  const buffers = {
    projected: parameters.activation('projected', width + channels + numHeads),
    convolved: parameters.activation('convolved', channels),
    mixed: parameters.activation('mixed', width),
  }
  const options: SelectiveScanOptions = {
    layer: memory,
    numKeyHeads: numGroups,
    tilesKeyHeads: false,
    decayRate: await decayRate(parameters, at, numHeads),
    stepBias: await parameters.vector(`${at}dt_bias`, numHeads),
    skip: await parameters.vector(`${at}D`, numHeads),
    gate: { x: buffers.projected, offset: 0 },
    step: { x: buffers.projected, offset: width + channels },
    norm: { weight: await parameters.vector(`${at}norm.weight`, width), eps: normEps },
  }
  const convolved = convolutionOf(memory, width, false, await loadConvolution(parameters, convolution))
  return new Mamba2(backend, weights, buffers, convolved, options)
}
