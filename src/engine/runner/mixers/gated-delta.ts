/** The gated delta net (arXiv 2412.06464) of Qwen3.5 and Qwen3-Next: linear attention with a state that decays and is corrected at each token. */
import type { GatedDeltaOptions } from '../../../kernels/ops.ts'
import type { GatedDeltaSpec } from '../decoder-spec.ts'
import type { LayerParts, Mixer, MixerPlace } from '../layer-parts.ts'
import type { Part } from '../parameters.ts'
import { convolutionOf, decayRate } from './state-tensors.ts'

/** Loads projections, convolution, decay and gate norm. @throws ModelError */
export async function loadGatedDelta(
  { parameters, spec: { hiddenSize } }: LayerParts,
  { numKeyHeads, numValueHeads, keyDim, valueDim, kernel, normEps, tilesKeyHeads }: GatedDeltaSpec,
  { base, memory }: MixerPlace,
): Promise<Mixer> {
  const at = `${base}linear_attn.`
  const valueWidth = numValueHeads * valueDim
  const channels = 2 * numKeyHeads * keyDim + valueWidth
  const perKey = numValueHeads / numKeyHeads
  const [keyRows, valueRows] = [keyDim, perKey * valueDim]
  // Qwen3-Next's checkpoints fuse both pairs of projections, its GGUF files only the scalars.
  const input: readonly Part[] = parameters.has(`${at}in_proj_qkvz.weight`)
    ? [[`${at}in_proj_qkvz`, channels + valueWidth, fusedOrder(numKeyHeads, [keyRows, keyRows, valueRows, valueRows])]]
    : [
        [`${at}in_proj_qkv`, channels],
        [`${at}in_proj_z`, valueWidth],
      ]
  const scalarParts: readonly Part[] = parameters.has(`${at}in_proj_ba.weight`)
    ? [[`${at}in_proj_ba`, 2 * numValueHeads, fusedOrder(numKeyHeads, [perKey, perKey])]]
    : [
        [`${at}in_proj_b`, numValueHeads],
        [`${at}in_proj_a`, numValueHeads],
      ]
  const weights = {
    input: await parameters.matrix(input, hiddenSize), // q, k, v, gate: [channels + valueWidth, hidden]
    scalars: await parameters.matrix(scalarParts, hiddenSize), // beta, step: [2 numValueHeads, hidden]
    output: await parameters.matrix([[`${at}out_proj`, hiddenSize]], valueWidth), // [hidden, valueWidth]
  }
  const projected = parameters.activation('projected', channels + valueWidth)
  const scalars = parameters.activation('scalars', 2 * numValueHeads)
  const convolved = parameters.activation('convolved', channels)
  const mixed = parameters.activation('mixed', valueWidth)
  const delta: GatedDeltaOptions = {
    layer: memory,
    numKeyHeads,
    tilesKeyHeads,
    decayRate: await decayRate(parameters, at, numValueHeads),
    stepBias: await parameters.vector(`${at}dt_bias`, [numValueHeads]),
    gate: { x: projected, offset: channels },
    beta: { x: scalars, offset: 0 },
    step: { x: scalars, offset: numValueHeads },
    // Unlike the family's other norms, this one is stored as w and not as w - 1.
    norm: { weight: await parameters.vector(`${at}norm.weight`, [valueDim]), eps: normEps },
  }
  const tensors = { name: `${at}conv1d`, channels, kernel, hasBias: false }
  const convolution = await convolutionOf(parameters, tensors, { layer: memory, offset: 0, isGated: false })
  return {
    between: [mixed],
    recordMemory(backend, hidden, norm) {
      backend.linear(projected, hidden, weights.input, { norm })
      backend.linear(scalars, hidden, weights.scalars, { norm })
      backend.convolution(convolved, projected, convolution)
      backend.gatedDelta(mixed, convolved, delta)
    },
    recordOutput(backend, hidden, _, out) {
      backend.linear(out, mixed, weights.output, { residual: out === hidden })
    },
  }
}

/**
 * Qwen3-Next's fused matrices hold, for one key head after the other, its rows of every part. Here all rows of a part stand together. Returns the
 * stored row for each row.
 * @param sizes rows of each part that belong to one key head
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
