/** Routing and experts of the reference backend: f64 sums, each row computed separately. */
import type { ExpertsOptions, RouteOptions, Routing, RoutingShape } from '../ops.ts'
import { activationOf, type HostNorm, joinGlu } from './arithmetic.ts'
import { type RowTile, TILE_ROWS } from './row-tile.ts'

export interface HostRouting extends Routing {
  readonly experts: Int32Array // [maxRows, topK], largest score first
  readonly weights: Float32Array // [maxRows, topK]
  readonly activations: Float32Array // [maxRows, topK, inner]
  readonly outputs: Float32Array // [maxRows, topK, outer]
}

/** An empty routing of `maxRows` rows. */
export function createHostRouting(label: string, shape: RoutingShape, maxRows: number): HostRouting {
  const pairs = maxRows * shape.topK
  return {
    ...shape,
    label,
    experts: new Int32Array(pairs),
    weights: new Float32Array(pairs),
    activations: new Float32Array(pairs * shape.inner),
    outputs: new Float32Array(pairs * shape.outer),
  }
}

/** Indices of the `count` largest values among the candidates, largest first; ties lowest index first. */
function largest(values: Float64Array, count: number, isCandidate: (index: number) => boolean): number[] {
  const chosen: number[] = []
  while (chosen.length < count) {
    let best = -1
    for (let i = 0; i < values.length; i++) {
      if (isCandidate(i) && !chosen.includes(i) && (best < 0 || values[i]! > values[best]!)) best = i
    }
    chosen.push(best)
  }
  return chosen
}

/** Chooses one row's experts from its logits. */
export function routeRow(
  logits: Float32Array, // [numExperts]
  { scores: kind, groups, normalizes, scale }: RouteOptions,
  bias: Float32Array | null,
  expertScales: Float32Array | null,
  experts: Int32Array, // [topK], written
  weights: Float32Array, // [topK], written
): void {
  const max = logits.reduce((most, value) => Math.max(most, value), -Infinity)
  const scores = Float64Array.from(logits, (logit) =>
    kind === 'softmax' ? Math.exp(logit - max) : 1 / (1 + Math.exp(-logit)),
  )
  if (kind === 'softmax') {
    const total = scores.reduce((sum, score) => sum + score, 0)
    for (let i = 0; i < scores.length; i++) scores[i] = scores[i]! / total
  }
  const ranked = bias === null ? scores : scores.map((score, i) => score + bias[i]!)
  let isCandidate = (_expert: number): boolean => true
  if (groups !== null) {
    const size = scores.length / groups.count
    const sums = Float64Array.from({ length: groups.count }, (_, group) => {
      const [first = 0, second = first] = largest(ranked, Math.min(2, size), (i) => Math.floor(i / size) === group)
      return ranked[first]! + (size > 1 ? ranked[second]! : 0)
    })
    const used = largest(sums, groups.used, () => true)
    isCandidate = (expert) => used.includes(Math.floor(expert / size))
  }
  const chosen = largest(ranked, experts.length, isCandidate)
  const sum = normalizes ? chosen.reduce((total, expert) => total + scores[expert]!, 0) : 1
  for (const [k, expert] of chosen.entries()) {
    experts[k] = expert
    weights[k] = (scores[expert]! / sum) * scale * (expertScales?.[expert] ?? 1)
  }
}

/** The matrices of all experts, one after another. */
interface HostExperts {
  readonly rows: number
  readonly cols: number
  readonly values: Float32Array // [numExperts, rows, cols]
}

interface ExpertsCall {
  readonly x: Float32Array // [numRows, x.cols]
  readonly numRows: number
  readonly gateUp: HostExperts
  readonly down: HostExperts
  readonly gateUpBias: Float32Array | null
  readonly downBias: Float32Array | null
  readonly norm: HostNorm | null
  readonly options: ExpertsOptions
}

/** Computes each row's experts into `routing.outputs`, not yet weighted. */
export function multiplyExperts(tile: RowTile, routing: HostRouting, call: ExpertsCall): void {
  const { topK, numExperts, experts, inner: width, activations, outputs } = routing
  const { gateUp, down, gateUpBias, downBias, options } = call
  const matrixOf = ({ rows, cols, values }: HostExperts, expert: number) => ({
    rows,
    cols,
    values: values.subarray(expert * rows * cols, (expert + 1) * rows * cols),
  })
  for (let expert = 0; expert < numExperts; expert++) {
    const pairs: number[] = []
    for (let pair = 0; pair < call.numRows * topK; pair++) if (experts[pair] === expert) pairs.push(pair)
    for (let first = 0; first < pairs.length; first += TILE_ROWS) {
      const own = pairs.slice(first, first + TILE_ROWS)
      tile.multiply(call.x, (i) => Math.floor(own[i]! / topK), own.length, matrixOf(gateUp, expert), call.norm)
      for (const [r, pair] of own.entries()) {
        for (let i = 0; i < width; i++) {
          const at = r * gateUp.rows + i
          const bias = expert * gateUp.rows + i
          const first = tile.products[at]! + (gateUpBias === null ? 0 : gateUpBias[bias]!)
          if (options.glu === undefined) {
            activations[pair * width + i] = activationOf(options.activation)(first)
            continue
          }
          const up = tile.products[at + width]! + (gateUpBias === null ? 0 : gateUpBias[bias + width]!)
          activations[pair * width + i] = joinGlu(options.glu, first, up)
        }
      }
      tile.multiply(activations, (i) => own[i]!, own.length, matrixOf(down, expert), null)
      for (const [r, pair] of own.entries()) {
        for (let o = 0; o < down.rows; o++) {
          const bias = downBias === null ? 0 : downBias[expert * down.rows + o]!
          outputs[pair * down.rows + o] = tile.products[r * down.rows + o]! + bias
        }
      }
    }
  }
}

/** out[row] (+)= bias + the weighted sum of the outputs of the row's experts. */
export function combineExperts(
  out: Float32Array,
  { topK, weights, outputs }: HostRouting,
  numRows: number,
  cols: number,
  residual: boolean,
  bias: Float32Array | null,
): void {
  for (let row = 0; row < numRows; row++) {
    for (let o = 0; o < cols; o++) {
      let sum = bias?.[o] ?? 0
      for (let k = 0; k < topK; k++) sum += weights[row * topK + k]! * outputs[(row * topK + k) * cols + o]!
      out[row * cols + o] = residual ? out[row * cols + o]! + sum : sum
    }
  }
}
