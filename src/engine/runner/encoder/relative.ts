/** Terms that attention adds to its scores by the distance of two tokens: buckets (T5, MPNet), slopes (ALiBi), disentangled scores (DeBERTa). */
import type { AttentionOptions } from '../../../kernels/attention-options.ts'
import type { Backend } from '../../../kernels/backend.ts'
import { dequantize } from '../../../kernels/dequantize.ts'
import type { Activation, Vector } from '../../../kernels/ops.ts'
import { readMatrix, readVector, type WeightSource } from '../../weights/source.ts'
import { normalizeRow } from './head.ts'
import type { RelativeSpec } from './spec.ts'

interface RelativeShape {
  readonly hiddenSize: number
  readonly numHeads: number
  readonly headDim: number
  readonly normEps: number
  readonly maxTokens: number
}

/** Records the ops that a layer's attention needs before it, and returns its `bias` option. */
export type RecordRelative = (qkv: Activation, layer: number) => NonNullable<AttentionOptions['bias']>

/** T5's bidirectional bucket of a token `distance` positions after the row. Borders between buckets are computed in single precision, as there. */
export function distanceBucket(distance: number, numBuckets: number, maxDistance: number): number {
  const half = numBuckets / 2
  const first = distance > 0 ? half : 0
  const away = Math.abs(distance)
  const exact = half / 2
  if (away < exact) return first + away
  const { fround } = Math
  const share = fround(fround(Math.log(fround(away / exact))) / Math.log(maxDistance / exact))
  return first + Math.min(half - 1, exact + Math.floor(fround(share * (half - exact))))
}

/** DeBERTa's bucket, 0 to 2 span - 1, of a row `distance` positions after the token. Computed in single precision, as there. */
export function disentangledBucket(distance: number, span: number, maxDistance: number | null): number {
  const middle = Math.floor(span / 2)
  let bucket = distance
  if (maxDistance !== null && Math.abs(distance) > middle) {
    const { fround } = Math
    const log = fround(Math.log(fround(Math.abs(distance) / middle)))
    const longest = fround(Math.log(fround((maxDistance - 1) / middle)))
    bucket = Math.sign(distance) * (Math.ceil(fround(fround(log / longest) * (middle - 1))) + middle)
  }
  return Math.max(0, Math.min(2 * span - 1, bucket + span))
}

/** ALiBi's slope of each head: powers of 2^(-8 / n) for n heads; where n is not a power of two, the further slopes lie between these. */
export function alibiSlopes(numHeads: number): number[] {
  const power = 2 ** Math.floor(Math.log2(numHeads))
  const slopes = Array.from({ length: power }, (_, i) => 2 ** ((-8 * (i + 1)) / power))
  const between = Array.from({ length: numHeads - power }, (_, i) => 2 ** ((-4 * (2 * i + 1)) / power))
  return [...slopes, ...between]
}

/** Values by head and by the distance of a token after the row, from -reach to reach: [numHeads, 2 reach + 1]. */
function byDistance(numHeads: number, reach: number, value: (head: number, distance: number) => number): Float32Array {
  const width = 2 * reach + 1
  return Float32Array.from({ length: numHeads * width }, (_, i) => value(Math.floor(i / width), (i % width) - reach))
}

/** Loads the terms. @param source with the names of names.ts @throws ModelError for a tensor that is missing or has another shape */
export async function loadRelative(
  backend: Backend,
  relative: RelativeSpec,
  shape: RelativeShape,
  numLayers: number,
  source: WeightSource,
): Promise<RecordRelative> {
  const { numHeads, maxTokens } = shape
  // Kernels need a reach of at least one token.
  const longest = Math.max(1, maxTokens - 1)
  if (relative.kind === 'disentangled') return loadDisentangled(backend, relative, shape, numLayers, source)
  let values: Float32Array
  let reach = longest
  if (relative.kind === 'slopes') {
    const slopes = alibiSlopes(numHeads)
    values = byDistance(numHeads, reach, (head, distance) => -slopes[head]! * Math.abs(distance))
  } else {
    const { numBuckets, maxDistance } = relative
    reach = Math.min(maxDistance, longest)
    const stored = dequantize(await readMatrix(source, 'relative_bias.weight', numBuckets, numHeads))
    values = byDistance(
      numHeads,
      reach,
      (head, distance) => stored[distanceBucket(distance, numBuckets, maxDistance) * numHeads + head]!,
    )
  }
  const bias = { kind: 'distance', values: backend.loadVector('distances', values), reach } as const
  return () => bias
}

async function loadDisentangled(
  backend: Backend,
  { span, maxDistance, isNormed, sharesKeys }: RelativeSpec & { kind: 'disentangled' },
  { hiddenSize, numHeads, headDim, normEps, maxTokens }: RelativeShape,
  numLayers: number,
  source: WeightSource,
): Promise<RecordRelative> {
  const width = numHeads * headDim
  const vectors = dequantize(await readMatrix(source, 'relative.weight', 2 * span, hiddenSize))
  if (isNormed) {
    const weight = await readVector(source, 'relative_norm.weight', hiddenSize)
    const bias = await readVector(source, 'relative_norm.bias', hiddenSize)
    for (let at = 0; at < vectors.length; at += hiddenSize)
      vectors.set(normalizeRow(vectors.subarray(at, at + hiddenSize), { weight, bias, eps: normEps }), at)
  }
  const numBuckets = Math.ceil((2 * span) / 16) * 16
  const scale = (3 * headDim) ** -0.5
  /** Each head's vectors by bucket, [numHeads, numBuckets / 16, headDim, 16], multiplied by the scale of the scores. */
  const table = async (name: string): Promise<Vector> => {
    const weight = dequantize(await readMatrix(source, `${name}.weight`, width, hiddenSize))
    const bias = source.tensors.has(`${name}.bias`) ? await readVector(source, `${name}.bias`, width) : null
    const panels = new Float32Array(numBuckets * width)
    project(vectors, weight, hiddenSize, (bucket, row, sum) => {
      const [head, dim] = [Math.floor(row / headDim), row % headDim]
      const panel = (head * numBuckets + (bucket & ~15)) * headDim
      panels[panel + dim * 16 + (bucket & 15)] = (sum + (bias?.[row] ?? 0)) * scale
    })
    return backend.loadVector(`${name} by distance`, panels)
  }
  const tables: (readonly [Vector, Vector])[] = []
  for (let layer = 0; layer < numLayers; layer++) {
    const [ofKeys, ofQueries] = sharesKeys ? (['k', 'q'] as const) : (['relative_k', 'relative_q'] as const)
    tables.push([await table(`layers.${layer}.${ofKeys}`), await table(`layers.${layer}.${ofQueries}`)])
  }
  const reach = Math.max(1, maxTokens - 1)
  const buckets = byDistance(1, reach, (_, distance) => disentangledBucket(-distance, span, maxDistance))
  const scores = backend.createActivation('relative scores', 2 * numHeads * numBuckets)
  const bias = {
    kind: 'disentangled',
    scores,
    numBuckets,
    buckets: backend.loadVector('buckets', buckets),
    reach,
  } as const
  return (qkv, layer) => {
    for (const [part, table] of tables[layer]!.entries()) {
      const x = { x: qkv, offset: part * width }
      backend.headProducts(
        { x: scores, offset: part * numHeads * numBuckets },
        { x, numHeads, headDim, count: numBuckets, table },
      )
    }
    return bias
  }
}

/**
 * Calls `give` with the product of every row of x and every row of w, both [rows, cols]. Takes four rows of x at a time, because these billions of
 * multiplications are the longest part of a load.
 */
function project(
  x: Float32Array,
  w: Float32Array,
  cols: number,
  give: (xRow: number, wRow: number, sum: number) => void,
): void {
  const [xRows, wRows] = [x.length / cols, w.length / cols]
  for (let first = 0; first < xRows; first += 4) {
    const [a, b, c, d] = [0, 1, 2, 3].map((i) => Math.min(first + i, xRows - 1) * cols) as [
      number,
      number,
      number,
      number,
    ]
    for (let row = 0; row < wRows; row++) {
      let [sumA, sumB, sumC, sumD] = [0, 0, 0, 0]
      for (let i = 0, at = row * cols; i < cols; i++, at++) {
        const value = w[at]!
        sumA += value * x[a + i]!
        sumB += value * x[b + i]!
        sumC += value * x[c + i]!
        sumD += value * x[d + i]!
      }
      give(first, row, sumA)
      if (first + 1 < xRows) give(first + 1, row, sumB)
      if (first + 2 < xRows) give(first + 2, row, sumC)
      if (first + 3 < xRows) give(first + 3, row, sumD)
    }
  }
}
