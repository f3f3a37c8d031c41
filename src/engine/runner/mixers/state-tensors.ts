/** Small tensors of mixers that keep a state: the causal convolution, and the rate at which a state decays. */
import type { ConvolutionOptions, Vector } from '../../../kernels/ops.ts'
import type { Parameters } from '../parameters.ts'

interface ConvolutionTensors {
  /** The weight `name.weight` is stored as [channels, 1, kernel], in GGUF files as [channels, kernel]. */
  readonly name: string
  readonly channels: number
  readonly kernel: number
  readonly hasBias: boolean
}

/** Loads a causal convolution: weight [channels, kernel] and bias [channels]. @throws ModelError */
export async function convolutionOf(
  parameters: Parameters,
  { name, channels, kernel, hasBias }: ConvolutionTensors,
  place: Pick<ConvolutionOptions, 'layer' | 'offset' | 'isGated'>,
): Promise<ConvolutionOptions> {
  return {
    ...place,
    kernel,
    weight: await parameters.vector(`${name}.weight`, [channels, kernel]),
    bias: hasBias ? await parameters.vector(`${name}.bias`, [channels]) : null,
  }
}

/** The decay rate A [length] of the mixer with prefix `at`. GGUF files store it as `A`; checkpoints store A_log, and A = -exp(A_log). */
export async function decayRate(parameters: Parameters, at: string, length: number): Promise<Vector> {
  return parameters.has(`${at}A`)
    ? parameters.vector(`${at}A`, [length])
    : parameters.vector(`${at}A_log`, [length], (value) => -Math.exp(value))
}
