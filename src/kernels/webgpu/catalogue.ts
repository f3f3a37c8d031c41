/** Every kernel that a model of a given shape can launch, without a device: what `bench isa` and its test compile for GPUs that are not there. */
import type { MatrixFormat } from '../ops.ts'
import { attentionSources, qkvSource } from './attention.ts'
import { embedSource, layerNormSource, NORM_ADD_SOURCE, POOL_SOURCE } from './elementwise.ts'
import { COMBINE_SOURCE, routeSources } from './experts.ts'
import { expertSources, linearSources, prepareSource, rowRange } from './linear.ts'
import { LOW_RANK_SOURCES } from './low-rank.ts'
import { formOf } from './matrix.ts'
import type { KernelSource } from './pipelines.ts'
import { SAMPLE_SOURCES } from './sample.ts'
import { STATE_SOURCES } from './states.ts'

/** The dimensions of a llama-like model. */
export interface ModelShape {
  readonly hidden: number
  readonly inner: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly vocab: number
}

export interface CatalogueEntry {
  /** The kernel's name, with the matrix where it is a product's. */
  readonly kernel: string
  /** `gemv`, `gemm` and `attention` have bounds on what they may need of a GPU; the rest is small. */
  readonly kind: 'gemv' | 'gemm' | 'attention' | 'other'
  /** Weight format; null: the kernel has none. */
  readonly weights: MatrixFormat | null
  /** Most rows of a step that are computed by it; null: any number. */
  readonly rows: number | null
  readonly source: KernelSource
}

/** The kernels of a model with all matrices in one format, in groups of 32 without minimums. */
export function modelKernels(shape: ModelShape, weights: MatrixFormat): CatalogueEntry[] {
  const { hidden, inner, heads, kvHeads, headDim, vocab } = shape
  const form = formOf(weights, 32, false)
  const entries: CatalogueEntry[] = []
  const matrices = [
    ['qkv', (heads + 2 * kvHeads) * headDim, hidden, false],
    ['output', hidden, heads * headDim, false],
    ['gate and up', 2 * inner, hidden, true],
    ['down', hidden, inner, false],
    ['head', vocab, hidden, false],
  ] as const
  for (const [label, rows, cols, isGated] of matrices) {
    for (const [TM, source] of linearSources({ rows, cols, form, isGated }, true)) {
      const kernel = `${source.name} (${label})`
      entries.push({ kernel, kind: TM === 0 ? 'gemm' : 'gemv', weights, rows: rowRange(TM), source })
    }
  }
  const other = (source: KernelSource | null, of: MatrixFormat | null) => {
    if (source !== null) entries.push({ kernel: source.name, kind: 'other', weights: of, rows: null, source })
  }
  for (const hasNorm of [true, false]) other(prepareSource(form, hasNorm, hasNorm ? 'sample' : 'all'), weights)
  for (const adds of [false, true]) other(embedSource(form, adds), weights)
  const attention = { numHeads: heads, numKvHeads: kvHeads, headDim, blockSize: 16 }
  const [single, tile, reduce] = attentionSources(attention)
  entries.push({ kernel: 'attention', kind: 'attention', weights: null, rows: 1, source: single })
  entries.push({ kernel: 'attention', kind: 'attention', weights: null, rows: null, source: tile })
  for (const source of [reduce, qkvSource(attention, 'none', true), qkvSource(attention, 'head', true)]) {
    other(source, null)
  }
  const rest = [NORM_ADD_SOURCE, layerNormSource(true, true), POOL_SOURCE]
  for (const source of [...rest, ...STATE_SOURCES, ...LOW_RANK_SOURCES, ...SAMPLE_SOURCES]) other(source, null)
  return entries
}

/** The experts of a model. */
interface ExpertsShape {
  readonly hidden: number
  readonly inner: number
  readonly count: number
  readonly topK: number
}

/** The kernels of a mixture of experts, in groups of 32 without minimums. */
export function expertKernels({ hidden, inner, count, topK }: ExpertsShape, weights: MatrixFormat): CatalogueEntry[] {
  const form = formOf(weights, 32, false)
  const matrices = [
    ["experts' gate and up", 2 * inner, hidden, true],
    ["experts' down", hidden, inner, false],
  ] as const
  const products = matrices.flatMap(([label, rows, cols, isGated]): CatalogueEntry[] => {
    const { pairs, tiles } = expertSources({ rows, cols, form, isGated, topK }, true)
    return [
      { kernel: `${pairs.name} (${label})`, kind: 'gemv', weights, rows: 1, source: pairs },
      { kernel: `${tiles.name} (${label})`, kind: 'gemm', weights, rows: null, source: tiles },
    ]
  })
  const others = [...routeSources(count), COMBINE_SOURCE].map((source): CatalogueEntry => ({
    kernel: source.name,
    kind: 'other',
    weights: null,
    rows: null,
    source,
  }))
  return [...products, ...others]
}
