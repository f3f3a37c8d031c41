/** Ops on single rows, and pooling: embed, normAdd, layerNorm, pool. */
import type { Activation, LayerNorm, Norm, Pooling } from '../ops.ts'
import { bind, Launch, normWeight, type GpuContext, type PreparedOp } from './context.ts'
import type { GpuMatrix, WeightForm } from './matrix.ts'
import type { BindingKind, KernelSource } from './pipelines.ts'

const EMBED: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'write', 'read']
const LAYER_NORM: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'read', 'write']
const LAYER_NORM_INPLACE: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'write']
const POOL: readonly BindingKind[] = ['read', 'uniform', 'read', 'write']
const NORM_ADD: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'write']

/** Whether rows are gathered by token or by place (`embedAdd`), and written or added. */
type EmbedKind = 'tokens' | 'addedTokens' | 'addedPlaces'

/** The kernel that gathers embedding rows. */
function embedSource(form: WeightForm, kind: EmbedKind = 'tokens'): KernelSource {
  const defines = { ADDS: kind === 'tokens' ? 0 : 1, BY_PLACE: kind === 'addedPlaces' ? 1 : 0 }
  return { name: 'embed', bindings: EMBED, defines: { ...form, ...defines, WS: 64 } }
}

const NORM_ADD_SOURCE: KernelSource = { name: 'norm-add', bindings: NORM_ADD, defines: { WS: 256 } }

const POOL_THREADS = 64
const POOL_SOURCE: KernelSource = { name: 'pool', bindings: POOL, defines: { WS: POOL_THREADS } }

/** The layer norm kernel. */
function layerNormSource(isInPlace: boolean, hasBias: boolean): KernelSource {
  const defines = { WS: 128, INPLACE: isInPlace ? 1 : 0, BIAS: hasBias ? 1 : 0 }
  return { name: 'layer-norm', bindings: isInPlace ? LAYER_NORM_INPLACE : LAYER_NORM, defines }
}

/** out[r] = table[tokens[r]] * scale, or out[r] += table[tokens[r]] * scale, or out[r] += table[places[r]] * scale */
export function embed(
  context: GpuContext,
  out: Activation,
  table: GpuMatrix,
  scale: number,
  sampled: GPUBuffer,
  kind: EmbedKind = 'tokens',
): PreparedOp {
  const target = context.activation(out)
  if (table.isGated) throw new Error(`embed ${table.label}: a gated matrix has no rows to gather`)
  if (target.cols !== table.cols) throw new Error(`embed ${table.label}: ${table.cols} columns into ${target.cols}`)
  const source = embedSource(table.form, kind)
  const launches = table.shards.map((shard) => {
    const params = [
      table.numBlocks,
      target.stride,
      table.cols,
      shard.firstRow,
      Math.min(shard.numRows, table.rows - shard.firstRow),
      table.rows,
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

/** residual = (residual + norm(x)) * scale */
export function normAdd(
  context: GpuContext,
  residual: Activation,
  x: Activation,
  norm: Norm,
  scale: number,
): PreparedOp {
  const target = context.activation(residual)
  const source = context.activation(x)
  if (target === source || target.cols !== source.cols) {
    throw new Error(
      `normAdd: ${source.label} [.., ${source.cols}] does not add to ${target.label} [.., ${target.cols}]`,
    )
  }
  const params = [source.cols, source.stride, { f32: 1 / source.cols }, { f32: norm.eps }, { f32: scale }]
  const buffers = [source.buffer, normWeight(context, norm), target.buffer]
  const launch = new Launch(context, NORM_ADD_SOURCE, bind(context, 'normAdd', NORM_ADD, params, buffers))
  return { sources: [NORM_ADD_SOURCE], launch: (numRows) => launch.add(numRows) }
}

/** out = norm(x); out may be x. */
export function layerNorm(context: GpuContext, out: Activation, x: Activation, norm: LayerNorm): PreparedOp {
  const target = context.activation(out)
  const source = context.activation(x)
  if (target.cols !== source.cols)
    throw new Error(`layerNorm: ${source.label} [.., ${source.cols}] does not fit ${target.label} [.., ${target.cols}]`)
  const { weight, bias, eps } = norm
  const isInPlace = target === source
  const kernel = layerNormSource(isInPlace, bias !== null)
  const params = [source.cols, source.stride, { f32: 1 / source.cols }, { f32: eps }]
  const vectors = [context.vector(weight).buffer, bias === null ? context.nothing : context.vector(bias).buffer]
  const buffers = [...vectors, ...(isInPlace ? [] : [source.buffer]), target.buffer]
  const launch = new Launch(context, kernel, bind(context, 'layerNorm', kernel.bindings, params, buffers))
  return { sources: [kernel], launch: (numRows) => launch.add(numRows) }
}

const POOLINGS: Readonly<Record<Pooling, number>> = {
  mean: 0,
  first: 1,
  last: 2,
  max: 3,
  weightedMean: 4,
  rootMean: 5,
}

/** Writes one row per sequence to `pooled`, f32 [sequences, cols]. @param numSequences returns the number of sequences of the current step */
export function pool(
  context: GpuContext,
  x: Activation,
  pooling: Pooling,
  pooled: GPUBuffer,
  numSequences: () => number,
): PreparedOp {
  const { buffer, stride, cols } = context.activation(x)
  const group = bind(context, 'pool', POOL, [cols, stride, POOLINGS[pooling]], [buffer, pooled])
  const launch = new Launch(context, POOL_SOURCE, group)
  return { sources: [POOL_SOURCE], launch: () => launch.add(numSequences(), Math.ceil(cols / POOL_THREADS)) }
}
