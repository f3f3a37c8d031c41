/** Every tile that tuning may choose gives the default's bits, in every format, gated and not, with a norm in every other. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { BackendOptions, LinearOptions } from '../../src/kernels/ops.ts'
import type { WebGpuBackend } from '../../src/kernels/webgpu/backend.ts'
import {
  BLOCK_SIZE,
  FORMATS,
  backendOptions,
  expectBitEqual,
  firstRows,
  plainStep,
  randomMatrix,
  randomValues,
  type Format,
} from './fixtures.ts'

/** Rows enough for the widest tile: 8 rows a lane of 16 lanes. Columns of whole blocks, and of whole groups of 16. */
const ROWS = 256
const COLS = 96
const ROW_COUNTS = [1, 3, 8, 21]

export function describeVariants(
  create: (options: BackendOptions) => Promise<WebGpuBackend>,
  formats: readonly Format[] = FORMATS,
): void {
  describe('tiles', () => {
    let backend: WebGpuBackend
    beforeAll(async () => {
      backend = await create(backendOptions())
      backend.createKvCache({ numLayers: 1, numBlocks: 16, blockSize: BLOCK_SIZE, numKvHeads: 1, headDim: 16 })
      await backend.ready()
    })
    afterAll(() => backend?.close())

    for (const [index, format] of formats.entries()) {
      for (const glu of [false, true]) {
        it(`${format}${glu ? ', gated' : ''}`, async () => {
          // The gate does not change a kernel's text; the norm does, and has nothing to do with the format.
          const withNorm = index % 2 === 0
          const w = await backend.loadMatrix('w', ROWS, COLS, randomMatrix(format, 40 + index, ROWS, COLS), { glu })
          const x = backend.createActivation('x', COLS)
          const out = backend.createActivation('out', glu ? ROWS / 2 : ROWS)
          const options: LinearOptions = {
            ...(glu ? { glu: 'silu' as const } : {}),
            ...(withNorm ? { norm: { weight: backend.loadVector('norm', randomValues(3, COLS)), eps: 1e-5 } } : {}),
          }
          backend.debugWrite(x, randomValues(50 + index, 21 * COLS))
          const run = async (numRows: number) => {
            backend.beginStep(plainStep(numRows))
            backend.linear(out, x, w, options)
            await backend.endStep()
            return firstRows(await backend.debugRead(out), numRows, out.cols)
          }
          const expected = await run(21)
          let tried = 0
          for (const numRows of ROW_COUNTS) {
            for (const variant of backend.tiles(w, numRows)) {
              backend.useTile(w, numRows, variant)
              expectBitEqual(
                await run(numRows),
                firstRows(expected, numRows, out.cols),
                `${numRows} rows, ${JSON.stringify(variant)}`,
              )
              tried++
            }
          }
          expect(tried).toBeGreaterThanOrEqual(ROW_COUNTS.length)
        })
      }
    }
  })
}
