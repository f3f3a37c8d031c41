/** LFM2's mixer: a gated causal convolution over the last few tokens, every channel for itself. */
import type { Backend } from '../../../kernels/backend.ts'
import type { Activation, ConvolutionOptions, Matrix, Norm, Vector } from '../../../kernels/ops.ts'
import type { WeightSource } from '../../weights/source.ts'
import { expectLinear } from '../parameters.ts'
import type { DecoderSpec } from '../spec.ts'
import type { Mixer, MixerParts, MixerPlace } from './mixer.ts'
import { convolutionOf, expectConvolution, loadConvolution } from './state-tensors.ts'

/** B, C, x = W_in h; y = W_out (C * conv(B * x)) */
export interface ShortConvolutionSpec {
  readonly kind: 'shortConvolution'
  /** Tokens that an output depends on. */
  readonly kernel: number
  readonly hasBias: boolean
}

interface Weights {
  readonly input: Matrix // [3 hidden, hidden]
  readonly inputBias: Vector | undefined
  readonly output: Matrix // [hidden, hidden]
  readonly outputBias: Vector | undefined
}

class ShortConvolution implements Mixer {
  readonly #backend: Backend
  readonly #weights: Weights
  readonly #projected: Activation // [rows, 3 hidden]
  readonly #convolved: Activation // [rows, hidden]
  readonly #options: ConvolutionOptions

  constructor(
    backend: Backend,
    weights: Weights,
    projected: Activation,
    convolved: Activation,
    options: ConvolutionOptions,
  ) {
    this.#backend = backend
    this.#weights = weights
    this.#projected = projected
    this.#convolved = convolved
    this.#options = options
  }

  record(hidden: Activation, norm: Norm | undefined, out: Activation): void {
    const { input, inputBias, output, outputBias } = this.#weights
    this.#backend.linear(this.#projected, hidden, input, { norm, bias: inputBias })
    this.#backend.convolution(this.#convolved, this.#projected, this.#options)
    this.#backend.linear(out, this.#convolved, output, { bias: outputBias, residual: out === hidden })
  }
}

const parts = (base: string, hiddenSize: number) => ({
  input: [[`${base}conv.in_proj`, 3 * hiddenSize]] as const,
  output: [[`${base}conv.out_proj`, hiddenSize]] as const,
  convolution: { name: `${base}conv.conv`, channels: hiddenSize },
})

/** Checks the tensors. Throws ModelError. */
export function expectShortConvolution(
  source: WeightSource,
  { hiddenSize }: DecoderSpec,
  { kernel, hasBias }: ShortConvolutionSpec,
  base: string,
): void {
  const { input, output, convolution } = parts(base, hiddenSize)
  expectLinear(source, input, hiddenSize, hasBias)
  expectLinear(source, output, hiddenSize, hasBias)
  expectConvolution(source, { ...convolution, kernel, hasBias })
}

/** Loads both projections and the convolution. @throws ModelError */
export async function loadShortConvolution(
  { backend, parameters, spec: { hiddenSize } }: MixerParts,
  { kernel, hasBias }: ShortConvolutionSpec,
  { base, memory }: MixerPlace,
): Promise<Mixer> {
  const { input, output, convolution } = parts(base, hiddenSize)
  const weights = {
    input: await parameters.matrix(input, hiddenSize),
    inputBias: await parameters.bias(hasBias, input),
    output: await parameters.matrix(output, hiddenSize),
    outputBias: await parameters.bias(hasBias, output),
  }
  const options = convolutionOf(memory, 0, true, await loadConvolution(parameters, { ...convolution, kernel, hasBias }))
  const projected = parameters.activation('projected', 3 * hiddenSize)
  return new ShortConvolution(backend, weights, projected, parameters.activation('convolved', hiddenSize), options)
}
