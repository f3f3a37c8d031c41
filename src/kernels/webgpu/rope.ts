/** Rotary tables on the device, computed from f64 angles: WGSL's own sine and cosine are too inaccurate for large angles. */
import type { RopeTable } from '../ops.ts'
import { createStorage } from './context.ts'

/** Positions in the first part of a table; wgsl/qkv-rope-store.wgsl has the same number. */
const LOW_POSITIONS = 256

export interface GpuRope extends RopeTable {
  readonly inverseFrequencies: Float64Array
  readonly attentionFactor: number
  /** f32 [rows, half, 2]: cosine and sine; null until the number of positions is known. */
  buffer: GPUBuffer | null
}

/**
 * Uploads the table for positions 0 .. numPositions - 1. Its first part has the angles of p % 256, its second part the angles of p - p % 256; their
 * sum is the angle of p. A context of 131,072 tokens takes 768 rows instead of 131,072.
 */
export function uploadRope(
  device: GPUDevice,
  { label, inverseFrequencies, attentionFactor }: GpuRope,
  numPositions: number,
): GPUBuffer {
  const half = inverseFrequencies.length
  const numRows = LOW_POSITIONS + Math.ceil(numPositions / LOW_POSITIONS)
  const values = new Float32Array(numRows * half * 2)
  for (let row = 0; row < numRows; row++) {
    const isLow = row < LOW_POSITIONS
    const position = isLow ? row : (row - LOW_POSITIONS) * LOW_POSITIONS
    const factor = isLow ? 1 : attentionFactor
    for (let i = 0; i < half; i++) {
      const angle = position * inverseFrequencies[i]!
      values[2 * (row * half + i)] = Math.cos(angle) * factor
      values[2 * (row * half + i) + 1] = Math.sin(angle) * factor
    }
  }
  const buffer = createStorage(device, label, values.byteLength)
  device.queue.writeBuffer(buffer, 0, values)
  return buffer
}
