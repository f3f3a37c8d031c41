/** An MLP that keeps only the largest values of its gate (Gemma 3n's activation sparsity). */
import type { SparseMlpSpec } from '../decoder-spec.ts'
import type { LayerParts, Mlp } from '../layer-parts.ts'

/** Loads gate, up and down projections and the norms around them. @throws ModelError */
export async function loadSparse(
  { parameters, spec }: LayerParts,
  { width, deviations }: SparseMlpSpec,
  base: string,
): Promise<Mlp> {
  const { hiddenSize, names } = spec
  const [gateName, upName] = names.gateUp
  if (upName === undefined) throw new Error('a sparse MLP has its gate and up projections apart')
  const inner = parameters.activation('inner', width)
  const upper = parameters.activation('upper', width)
  const norm = await parameters.norm(`${base}${names.mlpNorm}`, hiddenSize)
  const gate = await parameters.matrix([[`${base}${gateName}`, width]], hiddenSize)
  const up = await parameters.matrix([[`${base}${upName}`, width]], hiddenSize)
  const down = await parameters.matrix([[`${base}${names.down}`, hiddenSize]], width)
  const outputNorm = await parameters.norm(`${base}${names.feedForwardNorm}`, hiddenSize)
  return {
    record(backend, hidden, branch, scale) {
      backend.linear(inner, hidden, gate, { norm })
      backend.sparseGelu(inner, deviations)
      backend.linear(upper, hidden, up, { norm })
      backend.multiply(inner, { x: upper, offset: 0 })
      backend.linear(branch, inner, down, {})
      backend.normAdd(hidden, branch, outputNorm, scale)
    },
  }
}
