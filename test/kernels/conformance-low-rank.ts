/** The ops that adapters add: addLowRank and activate. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createReferenceBackend } from '../../src/kernels/reference/backend.ts'
import type { InspectableBackend } from '../../src/kernels/inspect.ts'
import type {
  ActivateOptions,
  Activation,
  LowRank,
  LowRankPart,
  Matrix,
  Norm,
  StepInput,
} from '../../src/kernels/ops.ts'
import {
  BLOCK_SIZE,
  LIMITS,
  backendOptions,
  expectBitEqual,
  expectClose,
  randomMatrix,
  randomValues,
  stepInput,
  readRows,
  writeRows,
  type CreateBackend,
  type Tolerances,
} from './fixtures.ts'

/** No multiples of anything; the update's parts have 37, 61 and 3 rows, the last 5 are nobody's. */
const [COLS, ROWS] = [149, 106]
const PARTS = [37, 61, 3]
/** Wider than a workgroup's columns, and the ranks of a unit. */
const WIDE = 300
const INNER = 53

/** Ranks of the parts of each adapter; 0: it leaves the part alone. */
const RANKS = [
  [3, 8, 1],
  [0, 5, 0],
  [0, 0, 0],
  [17, 2, 9],
]

function part(seed: number, firstRow: number, rows: number, rank: number, cols: number): LowRankPart {
  const up = randomValues(seed + 1, rows * rank)
  return { firstRow, rows, rank, down: randomValues(seed, rank * cols, 0.1), up }
}

const ADAPTERS = RANKS.map((ranks, adapter) => {
  let firstRow = 0
  return PARTS.flatMap((rows, i) => {
    const first = firstRow
    firstRow += rows
    return ranks[i] === 0 ? [] : [part(100 + 10 * adapter + 2 * i, first, rows, ranks[i]!, COLS)]
  })
})

const ACTIVATIONS: readonly ActivateOptions[] = [
  { glu: 'silu' },
  { glu: 'silu_clamped' },
  { glu: 'gelu_tanh', residual: true },
  { glu: 'gelu' },
  { activation: 'relu2', residual: true },
  { activation: { kind: 'xielu', alphaP: 0.7, alphaN: 0.4, beta: 0.5 } },
]

/** Rows one after another, their adapters in turn: none, the first, ... */
function rowsOf(adapters: readonly number[]): StepInput {
  const blocks = Array.from({ length: Math.ceil(adapters.length / BLOCK_SIZE) }, (_, i) => i)
  return { ...stepInput([{ start: 0, numTokens: adapters.length, blocks }]), adapters: Int32Array.from(adapters) }
}

class Bench {
  readonly backend: InspectableBackend
  readonly x: Activation
  readonly out: Activation
  readonly wide: Activation
  readonly inner: Activation
  readonly product: Activation
  readonly joined: Activation
  readonly update: LowRank
  readonly tall: LowRank
  readonly norm: Norm
  gated!: Matrix
  apart!: Matrix

  constructor(backend: InspectableBackend) {
    this.backend = backend
    this.x = backend.createActivation('x', COLS)
    this.out = backend.createActivation('out', ROWS)
    this.wide = backend.createActivation('wide', WIDE)
    this.inner = backend.createActivation('inner', INNER)
    this.product = backend.createActivation('product', 2 * INNER)
    this.joined = backend.createActivation('joined', INNER)
    this.update = backend.loadLowRank('update', ROWS, COLS, ADAPTERS)
    this.tall = backend.loadLowRank('tall', WIDE, COLS, [[part(7, 0, WIDE, 20, COLS)]])
    this.norm = { weight: backend.loadVector('weight', randomValues(1, COLS)), eps: 1e-5 }
  }

  async load(): Promise<this> {
    const data = randomMatrix('f32', 9, 2 * INNER, COLS)
    this.gated = await this.backend.loadMatrix('gated', 2 * INNER, COLS, data, { glu: true })
    this.apart = await this.backend.loadMatrix('apart', 2 * INNER, COLS, data)
    this.backend.createKvCache({ numBlocks: 16, blockSize: BLOCK_SIZE, layers: [{ numKvHeads: 1, headDim: 16 }] })
    await this.backend.ready()
    return this
  }

  async step(input: StepInput, from: readonly [Activation, Float32Array][], out: Activation, record: () => void) {
    const { backend } = this
    for (const [activation, values] of from) writeRows(backend, activation, values, input.numRows)
    backend.beginStep(input)
    record()
    await backend.endStep()
    return readRows(backend, out, input.numRows)
  }

  add(input: StepInput, x: Float32Array, out: Float32Array, hasNorm: boolean): Promise<Float32Array> {
    const record = () => this.backend.addLowRank(this.out, this.x, this.update, hasNorm ? this.norm : undefined)
    return this.step(input, [[this.x, x], [this.out, out]], this.out, record) // prettier-ignore
  }
}

export function describeLowRank(create: CreateBackend, tolerances: Tolerances): void {
  describe('adapters', () => {
    let ours: Bench
    let theirs: Bench
    const x = randomValues(20, LIMITS.maxRows * COLS)
    const before = randomValues(21, LIMITS.maxRows * ROWS)
    beforeAll(async () => {
      ours = await new Bench(await create(backendOptions())).load()
      theirs = await new Bench(await createReferenceBackend(backendOptions())).load()
    })
    afterAll(async () => {
      await ours?.backend.close()
      await theirs?.backend.close()
    })

    it.each([true, false])('addLowRank, with a norm: %s', async (hasNorm) => {
      for (const numRows of [1, 3, 67]) {
        const input = rowsOf(Array.from({ length: numRows }, (_, row) => (row % 5) - 1))
        const actual = await ours.add(input, x, before, hasNorm)
        expectClose(actual, await theirs.add(input, x, before, hasNorm), tolerances.f32, `${numRows} rows`)
      }
      const input = rowsOf([0, 0])
      const wide = randomValues(23, LIMITS.maxRows * WIDE)
      const tall = (bench: Bench) =>
        bench.step(input, [[bench.x, x], [bench.wide, wide]], bench.wide, () => bench.backend.addLowRank(bench.wide, bench.x, bench.tall, bench.norm)) // prettier-ignore
      expectClose(await tall(ours), await tall(theirs), tolerances.f32, 'a tall one')
    })

    it("leaves rows without an adapter, and an adapter's other rows, as they are", async () => {
      const adapters = [-1, 1, 2, -1, 0]
      const result = await ours.add(rowsOf(adapters), x, before, true)
      const touched = Array.from(result, (value, i) => value !== before[i])
      for (const [row, adapter] of adapters.entries()) {
        const own = touched.slice(row * ROWS, (row + 1) * ROWS)
        const expected = Array.from(own, (_, column) =>
          (ADAPTERS[adapter] ?? []).some(({ firstRow, rows }) => column >= firstRow && column < firstRow + rows),
        )
        expect(own, `row ${row}`).toEqual(expected)
      }
    })

    it('gives a row the same bits whatever adapters its neighbours have', async () => {
      const adapters = Array.from({ length: 40 }, (_, row) => (row % 5) - 1)
      const together = await ours.add(rowsOf(adapters), x, before, true)
      for (const [row, adapter] of adapters.entries()) {
        if (row > 6 && row !== 33) continue
        const own = [x.slice(row * COLS, (row + 1) * COLS), before.slice(row * ROWS, (row + 1) * ROWS)] as const
        const alone = await ours.add(rowsOf([adapter]), ...own, true)
        expectBitEqual(together.slice(row * ROWS, (row + 1) * ROWS), alone, `row ${row}`)
      }
    })

    it.each(ACTIVATIONS)('activate %o', async (options) => {
      const input = rowsOf([-1, -1, -1, -1, -1])
      const old = randomValues(30, LIMITS.maxRows * INNER)
      const values = randomValues(31, LIMITS.maxRows * 2 * INNER, 9)
      const run = (bench: Bench) => {
        const source = options.glu === undefined ? bench.inner : bench.product
        const record = () => bench.backend.activate(bench.joined, source, options)
        return bench.step(input, [[source, values], [bench.joined, old]], bench.joined, record) // prettier-ignore
      }
      expectClose(await run(ours), await run(theirs), tolerances.f32, 'values')
    })

    it('joins gate and up as the product of a gated matrix does', async () => {
      const input = rowsOf([-1, -1, -1])
      const options = { glu: 'silu' } as const
      const [at, values] = [ours.x, x] as const
      const nothing = new Float32Array(LIMITS.maxRows * INNER).fill(NaN)
      const fused = await ours.step(
        input,
        [
          [at, values],
          [ours.joined, nothing],
        ],
        ours.joined,
        () =>
          // prettier-ignore
          ours.backend.linear(ours.joined, at, ours.gated, options),
      )
      const apart = await ours.step(
        input,
        [
          [at, values],
          [ours.joined, nothing],
        ],
        ours.joined,
        () => {
          // prettier-ignore
          ours.backend.linear(ours.product, at, ours.apart, {})
          ours.backend.activate(ours.joined, ours.product, options)
        },
      )
      expectClose(apart, fused, tolerances.f32, 'values')
    })

    it('refuses what does not fit', async () => {
      const backend = await create(backendOptions())
      const parts = [part(1, 100, 10, 2, COLS)]
      expect(() => backend.loadLowRank('u', ROWS, COLS, [parts])).toThrow(/rows 100 to 110 does not fit 106 x 149/)
      await backend.close()
    })
  })
}
