/** The causal convolution of mixers that keep a state: its tensors. */
import type { ConvolutionOptions } from '../../../kernels/ops.ts'
import { expectTensor, type WeightSource } from '../../weights/source.ts'
import type { Parameters } from '../parameters.ts'

export interface ConvolutionTensors {
  /** Of the layer: its weight is stored as [channels, 1, kernel]. */
  readonly name: string
  readonly channels: number
  readonly kernel: number
  readonly hasBias: boolean
}

/** Checks the tensors. Throws ModelError. */
export function expectConvolution(source: WeightSource, { name, channels, kernel, hasBias }: ConvolutionTensors): void {
  expectTensor(source, `${name}.weight`, [channels, 1, kernel])
  if (hasBias) expectTensor(source, `${name}.bias`, [channels])
}

export async function loadConvolution(
  parameters: Parameters,
  { name, channels, kernel, hasBias }: ConvolutionTensors,
): Promise<Pick<ConvolutionOptions, 'weight' | 'bias' | 'kernel'>> {
  return {
    kernel,
    weight: await parameters.vector(`${name}.weight`, [channels, 1, kernel]),
    bias: hasBias ? await parameters.vector(`${name}.bias`, channels) : null,
  }
}
