/** LFM2's mixer: a gated causal convolution over the last few tokens, each channel by itself. */
import type { ShortConvolutionSpec } from '../decoder-spec.ts'
import type { LayerParts, Mixer, MixerPlace } from '../layer-parts.ts'
import { convolutionOf } from './state-tensors.ts'

/** Loads both projections and the convolution. @throws ModelError */
export async function loadShortConvolution(
  { parameters, spec: { hiddenSize } }: LayerParts,
  { kernel, hasBias }: ShortConvolutionSpec,
  { base, memory }: MixerPlace,
): Promise<Mixer> {
  const input = [[`${base}conv.in_proj`, 3 * hiddenSize]] as const
  const output = [[`${base}conv.out_proj`, hiddenSize]] as const
  const weights = {
    input: await parameters.matrix(input, hiddenSize), // [3 hidden, hidden]
    inputBias: await parameters.bias(hasBias, input),
    output: await parameters.matrix(output, hiddenSize), // [hidden, hidden]
    outputBias: await parameters.bias(hasBias, output),
  }
  const tensors = { name: `${base}conv.conv`, channels: hiddenSize, kernel, hasBias }
  const convolution = await convolutionOf(parameters, tensors, { layer: memory, offset: 0, isGated: true })
  const projected = parameters.activation('projected', 3 * hiddenSize)
  const convolved = parameters.activation('convolved', hiddenSize)
  return {
    between: [convolved],
    recordMemory(backend, hidden, norm) {
      backend.linear(projected, hidden, weights.input, { norm, bias: weights.inputBias })
      backend.convolution(convolved, projected, convolution)
    },
    recordOutput(backend, hidden, _, out) {
      backend.linear(out, convolved, weights.output, { bias: weights.outputBias, residual: out === hidden })
    },
  }
}
