import { expect, test } from 'vitest'
import { FORMATS, isFull, randomMatrix, randomValues, type Format } from '../../../test/kernels/fixtures.ts'
import type { PackedMatrix, StoredMatrix } from '../backend.ts'
import type { InspectableBackend } from '../inspect.ts'
import { createCpuBackend } from './backend.ts'

// A whole block of K-quants, which have sub-scales.
const [ROWS, COLS] = [16_400, 256]
const IDS = Int32Array.of(0, 16_399, 16_384, 16_383, 7)
const LIMITS = { maxRows: 8, maxSequences: 8, maxSampleRows: 1, maxBlocksPerSequence: 1 }

/** A backend with half a MiB per memory, too little for the table; with `isRoomy` enough for it. */
const create = (isRoomy: boolean): Promise<InspectableBackend> =>
  createCpuBackend({ limits: LIMITS, traceKernels: false, threads: 2, ...(isRoomy ? {} : { memoryBytes: 2 ** 19 }) })

/** Rows of the table, times 0.3 and added to 1. */
async function rowsOf(backend: InspectableBackend, table: Awaited<ReturnType<InspectableBackend['loadMatrix']>>) {
  const [out, sum] = [backend.createActivation('out', COLS), backend.createActivation('sum', COLS)]
  backend.debugWrite(sum, new Float32Array(8 * COLS).fill(1))
  const zeros = new Int32Array(IDS.length)
  backend.beginStep({
    numRows: IDS.length,
    numSequences: 1,
    tokens: IDS,
    positions: zeros,
    slots: zeros,
    sequenceStarts: Int32Array.of(0, IDS.length),
    blockTables: zeros,
    maxBlocksPerSequence: 1,
    places: IDS,
  })
  backend.embed(out, table, 0.3)
  backend.embedAdd(sum, table)
  await backend.endStep()
  return [await backend.debugRead(out), await backend.debugRead(sum)]
}

test.each(isFull ? FORMATS : (['f16', 'q4 mins'] as const))(
  'a table of %s that no memory has room for gives the rows that it gives in one',
  async (format: Format) => {
    const data = randomMatrix(format, 3, ROWS, COLS)
    const inside = await create(true)
    const expected = await rowsOf(inside, await inside.loadMatrix('table', ROWS, COLS, data))
    await inside.close()
    const outside = await create(false)
    let packed: PackedMatrix | null = null
    const onPacked = (matrix: PackedMatrix) => {
      packed = { ...matrix, planes: matrix.planes.map((plane) => plane.slice()) }
      return Promise.resolve()
    }
    const table = await outside.loadMatrix('table', ROWS, COLS, data, { onPacked })
    expect(await rowsOf(outside, table)).toEqual(expected)
    expect(outside.memoryUse().weightBytes).toBeGreaterThan(2 ** 19)
    expect(outside.memoryUse().scratchBytes).toBeGreaterThan(0)
    await outside.close()

    const { planes, form } = packed as unknown as PackedMatrix
    const stored: StoredMatrix = {
      format: data.format,
      form,
      planeBytes: planes.map(({ length }) => length),
      read: (index, target) => Promise.resolve(target.set(planes[index]!)),
    }
    const again = await create(false)
    expect(await rowsOf(again, await again.importMatrix('table', ROWS, COLS, stored))).toEqual(expected)
    await expect(again.importMatrix('table', ROWS - 1, COLS, stored)).rejects.toThrow(RangeError)
    await again.close()
  },
)

test('a product with a matrix that no memory has room for is refused by name', async () => {
  const backend = await create(false)
  const values = randomValues(5, 8192 * COLS)
  const head = await backend.loadMatrix('lm_head', 8192, COLS, { format: 'f32', values })
  const [out, x] = [backend.createActivation('out', 8192), backend.createActivation('x', COLS)]
  expect(() => backend.linear(out, x, head, {})).toThrow(/^lm_head: no product with 8192 x 256 f32 fits/)
  await backend.close()
})
