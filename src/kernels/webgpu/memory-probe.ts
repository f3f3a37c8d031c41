/** Measures how much memory a device can allocate. WebGPU does not report it, so the probe allocates pieces until an allocation fails. */

const PIECE_BYTES = 256 << 20
/** Usable share of what could be allocated: scratch, staging and the driver need the rest. */
const USABLE_SHARE = 0.85

/** Bytes that can be allocated now, at most `atMostBytes`. All are freed again. A failed allocation does not reject. */
export async function tryAllocate(device: GPUDevice, atMostBytes: number): Promise<number> {
  const pieces: GPUBuffer[] = []
  const size = Math.min(PIECE_BYTES, device.limits.maxBufferSize)
  try {
    while (pieces.length * size * USABLE_SHARE < atMostBytes) {
      device.pushErrorScope('out-of-memory')
      const piece = device.createBuffer({ label: 'memory probe', size, usage: GPUBufferUsage.STORAGE })
      if ((await device.popErrorScope()) !== null) break
      pieces.push(piece)
    }
    return Math.min(atMostBytes, pieces.length * size * USABLE_SHARE)
  } finally {
    for (const piece of pieces) piece.destroy()
  }
}
