/** Small tensors of mixers that keep a state: the causal convolution, and how fast a state decays. */
import type { ConvolutionOptions, Vector } from '../../../kernels/ops.ts'
import { expectValues, type WeightSource } from '../../weights/source.ts'
import type { Parameters } from '../parameters.ts'

interface ConvolutionTensors {
  /** Of the layer: its weight is stored as [channels, 1, kernel], in GGUF files as [channels, kernel]. */
  readonly name: string
  readonly channels: number
  readonly kernel: number
  readonly hasBias: boolean
}

/** Checks the tensors. Throws ModelError. */
export function expectConvolution(source: WeightSource, { name, channels, kernel, hasBias }: ConvolutionTensors): void {
  expectValues(source, `${name}.weight`, channels * kernel)
  if (hasBias) expectValues(source, `${name}.bias`, channels)
}

/** Loads a causal convolution: weight [channels, kernel] and bias [channels]. */
export async function loadConvolution(
  parameters: Parameters,
  { name, channels, kernel, hasBias }: ConvolutionTensors,
): Promise<Pick<ConvolutionOptions, 'weight' | 'bias' | 'kernel'>> {
  return {
    kernel,
    weight: await parameters.vector(`${name}.weight`, channels * kernel),
    bias: hasBias ? await parameters.vector(`${name}.bias`, channels) : null,
  }
}

/** The options of a layer's convolution. `offset`: first column that it reads. */
export function convolutionOf(
  layer: number,
  offset: number,
  isGated: boolean,
  tensors: Pick<ConvolutionOptions, 'weight' | 'bias' | 'kernel'>,
): ConvolutionOptions {
  return { layer, offset, isGated, ...tensors }
}

// -exp(A_log) is what is meant; GGUF files have that, as A.

/** Checks that A or A_log [length] is there. @throws ModelError */
export function expectDecayRate(source: WeightSource, at: string, length: number): void {
  expectValues(source, source.tensors.has(`${at}A`) ? `${at}A` : `${at}A_log`, length)
}

/** The decay rate A [length]: as stored, or -exp(A_log). */
export async function decayRate(parameters: Parameters, at: string, length: number): Promise<Vector> {
  return parameters.has(`${at}A`)
    ? parameters.vector(`${at}A`, length)
    : parameters.vector(`${at}A_log`, length, (value) => -Math.exp(value))
}
