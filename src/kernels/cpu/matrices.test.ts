import { expect, test } from 'vitest'
import { backendOptions, type Format, randomMatrix } from '../../../test/kernels/fixtures.ts'
import { sliceRows } from '../dequantize.ts'
import type { MatrixData, MatrixRows } from '../ops.ts'
import { createCpuBackend } from './backend.ts'

test.each<{ format: Format; glu: boolean }>([
  { format: 'f32', glu: false },
  { format: 'f16', glu: true },
  { format: 'q8 g16 mins', glu: false },
  { format: 'q4 mins', glu: true },
  { format: 'q4 subs mins', glu: true },
  { format: 'q8 narrow subs g16', glu: false },
])('$format packed from pieces has the bytes that the whole matrix has (gated: $glu)', async ({ format, glu }) => {
  const [rows, cols] = [2 * 1032, 1024]
  const data = randomMatrix(format, 1, rows, cols)
  let numReads = 0
  const pieces: MatrixRows = {
    read: async (first, count) => {
      numReads++
      return sliceRows(data, rows, first, count)
    },
  }
  const backend = await createCpuBackend({ ...backendOptions(), threads: 2 })
  const packed = async (given: MatrixData | MatrixRows): Promise<Buffer[]> => {
    const planes: Buffer[] = []
    const onPacked = async (matrix: { readonly planes: readonly Uint8Array[] }) => {
      for (const plane of matrix.planes) planes.push(Buffer.from(plane))
    }
    await backend.loadMatrix('w', rows, cols, given, { glu, onPacked })
    return planes
  }
  const whole = await packed(data)
  const read = await packed(pieces)
  expect(numReads).toBeGreaterThan(2)
  expect(read.map((plane, i) => plane.equals(whole[i]!))).toEqual(whole.map(() => true))
  await backend.close()
})

test('pieces that are not alike are refused by name', async () => {
  const backend = await createCpuBackend({ ...backendOptions(), threads: 1 })
  const pieces: MatrixRows = {
    read: async (first, count) => randomMatrix(first === 0 ? 'q8' : 'q8 g16', 1, count, 1024),
  }
  await expect(backend.loadMatrix('embed', 2064, 1024, pieces)).rejects.toThrow(
    /^embed: rows from 1024 on are in another format/,
  )
  await backend.close()
})
