/** embed and normAdd. */
import type { Activation, Norm } from '../ops.ts'
import { bind, Launch, normWeight, type GpuContext, type PreparedOp } from './context.ts'
import type { GpuMatrix, WeightForm } from './matrix.ts'
import type { BindingKind, KernelSource } from './pipelines.ts'

const EMBED: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'write', 'read']
const NORM_ADD: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'write']

export function embedSource(form: WeightForm): KernelSource {
  return { name: 'embed', bindings: EMBED, defines: { ...form, WS: 64 } }
}

export const NORM_ADD_SOURCE: KernelSource = { name: 'norm-add', bindings: NORM_ADD, defines: { WS: 256 } }

/** out[r] = table[tokens[r]] * scale */
export function embed(
  context: GpuContext,
  out: Activation,
  table: GpuMatrix,
  scale: number,
  sampled: GPUBuffer,
): PreparedOp {
  const target = context.activation(out)
  if (table.isGated) throw new Error(`embed ${table.label}: a gated matrix has no rows to gather`)
  if (target.cols !== table.cols) throw new Error(`embed ${table.label}: ${table.cols} columns into ${target.cols}`)
  const source = embedSource(table.form)
  const launches = table.shards.map((shard) => {
    const params = [
      table.numBlocks,
      target.stride,
      table.cols,
      shard.firstRow,
      Math.min(shard.numRows, table.rows - shard.firstRow),
      { f32: scale * table.weightScale },
    ]
    const buffers = [shard.codes, shard.scales, target.buffer, sampled]
    return new Launch(context, source, bind(context, 'embed', EMBED, params, buffers))
  })
  return {
    sources: [source],
    launch(numRows) {
      for (const launch of launches) launch.add(numRows)
    },
  }
}

/** residual += norm(x) */
export function normAdd(context: GpuContext, residual: Activation, x: Activation, norm: Norm): PreparedOp {
  const target = context.activation(residual)
  const source = context.activation(x)
  if (target === source || target.cols !== source.cols) {
    throw new Error(
      `normAdd: ${source.label} [.., ${source.cols}] does not add to ${target.label} [.., ${target.cols}]`,
    )
  }
  const params = [source.cols, source.stride, { f32: 1 / source.cols }, { f32: norm.eps }]
  const buffers = [source.buffer, normWeight(context, norm), target.buffer]
  const launch = new Launch(context, NORM_ADD_SOURCE, bind(context, 'normAdd', NORM_ADD, params, buffers))
  return { sources: [NORM_ADD_SOURCE], launch: (numRows) => launch.add(numRows) }
}
