/** Launchers of embed and normAdd. */
import type { Activation, Norm } from '../ops.ts'
import { normWeight, record, type Bindings, type GpuContext } from './context.ts'
import type { GpuMatrix } from './matrix.ts'
import type { BindingKind } from './pipelines.ts'

const EMBED: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'write', 'read']
const NORM_ADD: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'write']

/** Threads of the small kernels: one subgroup where barriers cost, else enough to hide memory latency. */
export function smallWorkgroup({ capabilities }: GpuContext): number {
  return capabilities.isSoftware ? Math.max(4, capabilities.subgroupSize) : 64
}

/** out[r] = table[tokens[r]] * scale */
export function embed(
  context: GpuContext,
  bindings: Bindings,
  out: Activation,
  table: GpuMatrix,
  scale: number,
  sampled: GPUBuffer,
  numRows: number,
): void {
  const target = context.activation(out)
  if (table.gluRun > 0) throw new Error(`embed ${table.label}: a gated matrix has no rows to gather`)
  if (target.cols !== table.cols) throw new Error(`embed ${table.label}: ${table.cols} columns into ${target.cols}`)
  const source = { name: 'embed', bindings: EMBED, defines: { ...table.form, WS: smallWorkgroup(context) } }
  for (const [index, shard] of table.shards.entries()) {
    const group = bindings.get(`embed|${target.id}|${table.id}|${scale}|${index}`, EMBED, () => ({
      params: [
        table.numBlocks,
        target.stride,
        table.cols,
        shard.firstRow,
        Math.min(shard.numRows, table.rows - shard.firstRow),
        { f32: scale * table.weightScale },
      ],
      buffers: [shard.codes, shard.scales, target.buffer, sampled],
    }))
    record(context, source, group, numRows)
  }
}

/** residual += norm(x) */
export function normAdd(
  context: GpuContext,
  bindings: Bindings,
  residual: Activation,
  x: Activation,
  norm: Norm,
  numRows: number,
): void {
  const target = context.activation(residual)
  const source = context.activation(x)
  if (target === source || target.cols !== source.cols) {
    throw new Error(
      `normAdd: ${source.label} [.., ${source.cols}] does not add to ${target.label} [.., ${target.cols}]`,
    )
  }
  const group = bindings.get(`normAdd|${target.id}|${source.id}|${context.vector(norm.weight).id}`, NORM_ADD, () => ({
    params: [source.cols, source.stride, { f32: 1 / source.cols }, { f32: norm.eps }],
    buffers: [source.buffer, normWeight(context, norm), target.buffer],
  }))
  const kernel = { name: 'norm-add', bindings: NORM_ADD, defines: { WS: smallWorkgroup(context) } }
  record(context, kernel, group, numRows)
}
