/** How much memory a device has to give: WebGPU does not say, so it is asked for in pieces until there is none. */

const PIECE_BYTES = 256 << 20
/** Of what was had: scratch, staging and the driver itself need the rest. */
const USABLE_SHARE = 0.85

/** Bytes that can be allocated now, at most `atMostBytes`; all are freed again. Never rejects for want of memory. */
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
