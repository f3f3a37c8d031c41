/** Rotary tables on the device: cos and sin of every position, from f64 angles, because WGSL's own are too coarse for large ones. */
import type { RopeTable } from '../ops.ts'
import { createStorage } from './context.ts'

export interface GpuRope extends RopeTable {
  readonly id: number
  readonly inverseFrequencies: Float64Array
  readonly attentionFactor: number
  /** [position, half] cos and sin, f32; made when the pool's size is known. */
  buffer: GPUBuffer | null
}

/** The table of positions 0 .. numPositions - 1. */
export function uploadRope(
  device: GPUDevice,
  { label, inverseFrequencies, attentionFactor }: GpuRope,
  numPositions: number,
): GPUBuffer {
  const half = inverseFrequencies.length
  const values = new Float32Array(numPositions * half * 2)
  for (let position = 0; position < numPositions; position++) {
    for (let i = 0; i < half; i++) {
      const angle = position * inverseFrequencies[i]!
      values[2 * (position * half + i)] = Math.cos(angle) * attentionFactor
      values[2 * (position * half + i) + 1] = Math.sin(angle) * attentionFactor
    }
  }
  const buffer = createStorage(device, label, values.byteLength)
  device.queue.writeBuffer(buffer, 0, values)
  return buffer
}
