/** Where the routing of a step's rows to experts, and what experts compute, lie in shared memory. */
import type { Routing, RoutingShape } from '../ops.ts'
import type { Arena } from './arena.ts'
import { PANEL, roundUp } from './matrices.ts'
import { ROW_TILE } from './working-memory.ts'

/** Bytes of the header of the list of tiles, and of a tile (assembly/linear.ts). */
const TILE_BYTES = 16

export interface HostRouting extends Routing {
  readonly experts: number // i32 [maxRows, topK]
  readonly weights: number // f32 [maxRows, topK]
  /** Rows by expert, each expert's from a multiple of 4 on: their number at most. */
  readonly numPositions: number
  readonly positions: number // i32 [maxRows, topK]
  readonly sources: number // i32 [numPositions]
  readonly tiles: number
  readonly activations: number // f32 [numPositions, activationsStride]
  readonly activationsStride: number
  readonly outputs: number // f32 [numPositions, outputsStride]
  readonly outputsStride: number
}

/** Allocates the routing of `maxRows` rows. */
export function placeRouting(arena: Arena, label: string, shape: RoutingShape, maxRows: number): HostRouting {
  const pairs = maxRows * shape.topK
  const mostUsed = Math.min(shape.numExperts, pairs)
  const numPositions = roundUp(pairs + 3 * mostUsed, 4)
  const numTiles = Math.ceil(pairs / ROW_TILE) + mostUsed
  const [activationsStride, outputsStride] = [shape.inner, shape.outer].map((cols) => roundUp(cols, PANEL) * 4) as [
    number,
    number,
  ]
  return {
    ...shape,
    label,
    experts: arena.allocate(pairs * 4, label),
    weights: arena.allocate(pairs * 4, label),
    numPositions,
    positions: arena.allocate(pairs * 4, label),
    sources: arena.allocate(numPositions * 4, label),
    tiles: arena.allocate((1 + numTiles) * TILE_BYTES, label),
    activations: arena.allocate(numPositions * activationsStride, label),
    activationsStride,
    outputs: arena.allocate(numPositions * outputsStride, label),
    outputsStride,
  }
}
