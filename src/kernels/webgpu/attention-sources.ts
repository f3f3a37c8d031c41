/** Chooses the kernels of qkvRopeStore and attention for the shape of a model's layers. */
import type { QkNormKind } from '../attention-options.ts'
import { SPLIT } from './attention-plan.ts'
import type { QuantizedResults } from './context.ts'
import type { BindingKind, KernelSource } from './pipelines.ts'

export const QKV: readonly BindingKind[] = ['read', 'uniform', 'read', 'write', 'write', 'read', 'read', 'read']
const ATTENTION: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'write', 'write', 'read']

/** Tokens that a workgroup scores at a time: TILE of wgsl/attention.wgsl. */
const TILE_TOKENS = 32
/** Limits per workgroup: query vectors, their dims in total, and rows. With more, fewer workgroups would fit a core. */
const TILE_VECTORS = 16
const TILE_DIMS = 2048
const MAX_TILE_ROWS = 8
/** Bytes of workgroup memory that every adapter has. A query vector takes VECTOR_BYTES of them and, with quantised results, DIM_BYTES per dim. */
const WORKGROUP_BYTES = 16_384
const VECTOR_BYTES = 220
const DIM_BYTES = 6

/** What decides the attention kernels of a model. */
export interface AttentionShape {
  readonly numHeads: number
  readonly numKvHeads: number
  readonly headDim: number
  readonly blockSize: number
  /** The KV pool stores int8 codes; absent: f16. */
  readonly isKvQ8?: boolean
  /** Kind of the bias that is added to the scores; absent: none. */
  readonly bias?: keyof typeof BIAS
  /** Results are also written quantised. Not together with a bias: the bindings would be too many. */
  readonly next?: QuantizedResults['defines'] | undefined
}

const BIAS = { none: 0, distance: 1, disentangled: 2 } as const

/** Query heads of one KV head that share a workgroup: the whole group, or an equal part of it where heads are wide or many. */
export function headsPerItem({ numHeads, numKvHeads, headDim }: AttentionShape): number {
  const group = numHeads / numKvHeads
  const room = Math.floor(WORKGROUP_BYTES / (VECTOR_BYTES + DIM_BYTES * headDim))
  const most = Math.max(1, Math.min(room, Math.floor(TILE_DIMS / headDim)))
  let heads = Math.min(group, most)
  while (group % heads !== 0) heads--
  return heads
}

/** Rows of one sequence that share a workgroup. */
export function tileRows(shape: AttentionShape): number {
  const vectors = Math.min(TILE_VECTORS, shape.headDim > 128 ? Math.floor(TILE_DIMS / shape.headDim) : TILE_VECTORS)
  return Math.max(1, Math.min(MAX_TILE_ROWS, Math.floor(vectors / headsPerItem(shape))))
}

/** The bindings and defines of a bias or of quantised results. @param dims results of a workgroup, in f32 values */
function extras({ bias = 'none', next }: AttentionShape, dims: number): Pick<KernelSource, 'bindings' | 'defines'> {
  const more: readonly BindingKind[] = bias !== 'none' ? ['read', 'read'] : next === undefined ? [] : ['write']
  return {
    bindings: [...ATTENTION, ...more],
    defines: { BIAS: BIAS[bias], ...(next && { NEXT: 1, QUADS: dims / 4, ...next }) },
  }
}

function attentionSource(shape: AttentionShape, TM: number): KernelSource {
  const { numHeads, numKvHeads, headDim, blockSize, isKvQ8 } = shape
  const G = headsPerItem(shape)
  const { bindings, defines: more } = extras(shape, TM * G * headDim)
  const PARTS_OF_GROUP = numHeads / numKvHeads / G
  // Two vec4s of dims per thread, so that the sums and their operands stay in registers.
  let WS = 64
  while (WS < 256 && TM * G * headDim > WS * 8) WS *= 2
  const VS = Math.ceil((TM * G) / (WS / TILE_TOKENS))
  const defines = {
    D: headDim,
    BLOCK: blockSize,
    ...kvDefines(isKvQ8),
    G,
    PARTS_OF_GROUP,
    SPLIT,
    TM,
    WS,
    VS,
    ...more,
  }
  return { name: 'attention', bindings, defines }
}

function reduceSource(shape: AttentionShape): KernelSource {
  const { headDim, blockSize, isKvQ8 } = shape
  const { bindings, defines: more } = extras(shape, headDim)
  const defines = { D: headDim, BLOCK: blockSize, ...kvDefines(isKvQ8), WS: 64, ...more }
  return { name: 'attention-reduce', bindings, defines }
}

/** Defines of wgsl/kv-layout.wgsl. UNIT: dims per 16 bytes of the pool. */
function kvDefines(isKvQ8: boolean | undefined): KernelSource['defines'] {
  return isKvQ8 === true ? { KV_Q8: 1, UNIT: 16 } : { KV_Q8: 0, UNIT: 8 }
}

/** The attention kernels of a layer: for single rows, for tiles of rows, and the one that combines splits. */
export function attentionSources(shape: AttentionShape): readonly [KernelSource, KernelSource, KernelSource] {
  return [attentionSource(shape, 1), attentionSource(shape, tileRows(shape)), reduceSource(shape)]
}

/** The kernel that normalises, rotates and stores q, k and v. */
export function qkvSource(
  { headDim, blockSize, isKvQ8 }: AttentionShape,
  qkNorm: QkNormKind | 'none',
  hasRope: boolean,
  hasVNorm = false,
): KernelSource {
  const QK_NORM = { none: 0, head: 1, full: 2, rotatedHead: 3 }[qkNorm]
  const defines = {
    D: headDim,
    BLOCK: blockSize,
    ...kvDefines(isKvQ8),
    WS: 32,
    QK_NORM,
    ROPE: hasRope ? 1 : 0,
    V_NORM: hasVNorm ? 1 : 0,
  }
  return { name: 'qkv-rope-store', bindings: QKV, defines }
}
