/** Mamba-2 (arXiv 2405.21060), a selective state space model: the layers of Granite 4 that have no attention. */
import type { SelectiveScanOptions } from '../../../kernels/ops.ts'
import type { Mamba2Spec } from '../decoder-spec.ts'
import type { LayerParts, Mixer, MixerPlace } from '../layer-parts.ts'
import { convolutionOf, decayRate } from './state-tensors.ts'

/** Loads projections, convolution, decay, skip and gate norm. @throws ModelError */
export async function loadMamba2(
  { parameters, spec: { hiddenSize } }: LayerParts,
  { numHeads, headDim, numGroups, stateDim, kernel, hasBias, hasConvBias, normEps }: Mamba2Spec,
  { base, memory }: MixerPlace,
): Promise<Mixer> {
  const at = `${base}mamba.`
  const width = numHeads * headDim
  const channels = width + 2 * numGroups * stateDim
  const input = [[`${at}in_proj`, width + channels + numHeads]] as const
  const output = [[`${at}out_proj`, hiddenSize]] as const
  const weights = {
    input: await parameters.matrix(input, hiddenSize), // [2 width + 2 numGroups stateDim + numHeads, hidden]
    inputBias: await parameters.bias(hasBias, input),
    output: await parameters.matrix(output, width), // [hidden, width]
    outputBias: await parameters.bias(hasBias, output),
  }
  const projected = parameters.activation('projected', width + channels + numHeads)
  const convolved = parameters.activation('convolved', channels)
  const mixed = parameters.activation('mixed', width)
  const scan: SelectiveScanOptions = {
    layer: memory,
    numKeyHeads: numGroups,
    tilesKeyHeads: false,
    decayRate: await decayRate(parameters, at, numHeads),
    stepBias: await parameters.vector(`${at}dt_bias`, [numHeads]),
    skip: await parameters.vector(`${at}D`, [numHeads]),
    gate: { x: projected, offset: 0 },
    step: { x: projected, offset: width + channels },
    norm: { weight: await parameters.vector(`${at}norm.weight`, [width]), eps: normEps },
  }
  const tensors = { name: `${at}conv1d`, channels, kernel, hasBias: hasConvBias }
  const convolution = await convolutionOf(parameters, tensors, { layer: memory, offset: width, isGated: false })
  return {
    between: [mixed],
    recordMemory(backend, hidden, norm) {
      backend.linear(projected, hidden, weights.input, { norm, bias: weights.inputBias })
      backend.convolution(convolved, projected, convolution)
      backend.selectiveScan(mixed, convolved, scan)
    },
    recordOutput(backend, hidden, _, out) {
      backend.linear(out, mixed, weights.output, { bias: weights.outputBias, residual: out === hidden })
    },
  }
}
