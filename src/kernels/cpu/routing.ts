/** The shared memory of a routing: the experts of a step's rows, and the buffers that the experts compute in. */
import type { Routing, RoutingShape } from '../ops.ts'
import type { Arena } from './arena.ts'
import { PANEL, ROW_TILE, roundUp } from './matrices.ts'

/** Bytes per tile in the list of tiles, and of the list's header (assembly/linear.ts). */
const TILE_BYTES = 16

export interface HostRouting extends Routing {
  readonly experts: number // i32 [maxRows, topK]
  readonly weights: number // f32 [maxRows, topK]
  /** The most positions. Positions are rows sorted by expert; each expert's begin at a multiple of 4. */
  readonly numPositions: number
  readonly positions: number // i32 [maxRows, topK]
  readonly sources: number // i32 [numPositions]
  readonly tiles: number
  readonly activations: number // f32 [numPositions, activationsStride]
  readonly activationsStride: number
  readonly outputs: number // f32 [numPositions, outputsStride]
  readonly outputsStride: number
}

interface RoutingSizes {
  readonly numPositions: number
  readonly pairBytes: number
  readonly tileBytes: number
  readonly activationsStride: number
  readonly outputsStride: number
}

function sizesOf({ numExperts, topK, inner, outer }: RoutingShape, maxRows: number): RoutingSizes {
  const pairs = maxRows * topK
  const mostUsed = Math.min(numExperts, pairs)
  const numTiles = Math.ceil(pairs / ROW_TILE) + mostUsed
  return {
    numPositions: roundUp(pairs + 3 * mostUsed, 4),
    pairBytes: pairs * 4,
    tileBytes: (1 + numTiles) * TILE_BYTES,
    activationsStride: roundUp(inner, PANEL) * 4,
    outputsStride: roundUp(outer, PANEL) * 4,
  }
}

/** Allocates the routing of `maxRows` rows. */
export function placeRouting(arena: Arena, label: string, shape: RoutingShape, maxRows: number): HostRouting {
  const { numPositions, pairBytes, tileBytes, activationsStride, outputsStride } = sizesOf(shape, maxRows)
  return {
    ...shape,
    label,
    experts: arena.allocate(pairBytes, label),
    weights: arena.allocate(pairBytes, label),
    numPositions,
    positions: arena.allocate(pairBytes, label),
    sources: arena.allocate(numPositions * 4, label),
    tiles: arena.allocate(tileBytes, label),
    activations: arena.allocate(numPositions * activationsStride, label),
    activationsStride,
    outputs: arena.allocate(numPositions * outputsStride, label),
    outputsStride,
  }
}

/** The parts of a routing of `maxRows` rows that are copied between memories, with their bytes. None contains addresses. */
export function routingParts(shape: RoutingShape, maxRows: number): readonly (readonly [RoutingPart, number])[] {
  const { numPositions, pairBytes, tileBytes, activationsStride } = sizesOf(shape, maxRows)
  return [
    ['experts', pairBytes],
    ['weights', pairBytes],
    ['positions', pairBytes],
    ['sources', numPositions * 4],
    ['tiles', tileBytes],
    ['activations', numPositions * activationsStride],
  ]
}

/** Bytes that `placeRouting` allocates for `maxRows` rows. */
export function routingBytes(shape: RoutingShape, maxRows: number): number {
  const { numPositions, outputsStride } = sizesOf(shape, maxRows)
  return routingParts(shape, maxRows).reduce((sum, [, bytes]) => sum + bytes, numPositions * outputsStride)
}

type RoutingPart = 'experts' | 'weights' | 'positions' | 'sources' | 'tiles' | 'activations'
