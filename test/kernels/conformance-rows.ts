/** Ops over single rows: norms of groups, sums and products, sparse activations, lengths, residual streams, second tables; scales of experts. */
import { afterAll, beforeAll, describe, it } from 'vitest'
import type { InspectableBackend } from '../../src/kernels/inspect.ts'
import type { Activation, Matrix, StreamOptions, Vector } from '../../src/kernels/ops.ts'
import { createReferenceBackend } from '../../src/kernels/reference/backend.ts'
import {
  BLOCK_SIZE,
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

/** Columns: no multiple of anything but the groups. */
const WIDTH = 106
const GROUP = 53
const NUM_STREAMS = 4
const ROWS = 21
/** Rows of the second table: fewer than there are tokens. */
const TABLE_ROWS = 11

/** One backend with the operands of every case. */
class Bench {
  readonly backend: InspectableBackend
  readonly x: Activation
  readonly y: Activation
  readonly wide: Activation
  readonly logits: Activation
  readonly streams: readonly Activation[]
  readonly groupNorm: Vector
  readonly scale: Vector
  readonly predict: StreamOptions
  readonly correct: StreamOptions
  table!: Matrix

  constructor(backend: InspectableBackend) {
    this.backend = backend
    const activation = (label: string, cols: number) => backend.createActivation(label, cols)
    this.x = activation('x', WIDTH)
    this.y = activation('y', WIDTH)
    this.wide = activation('wide', 3 * WIDTH)
    this.logits = activation('logits', NUM_STREAMS)
    this.streams = Array.from({ length: NUM_STREAMS }, (_, i) => activation(`stream ${i}`, WIDTH))
    this.groupNorm = backend.loadVector('group norm', randomValues(1, GROUP))
    this.scale = backend.loadVector('scale', randomValues(2, WIDTH))
    const common = { streams: this.streams, active: 1, logits: this.logits }
    const coefficients = (seed: number, rows: number) =>
      backend.loadVector(`coefficients ${seed}`, randomValues(seed, rows * NUM_STREAMS))
    this.predict = { ...common, coefficients: coefficients(3, NUM_STREAMS * NUM_STREAMS) }
    this.correct = { ...common, coefficients: coefficients(4, NUM_STREAMS) }
  }

  async load(): Promise<this> {
    this.table = await this.backend.loadMatrix('table', TABLE_ROWS, WIDTH, randomMatrix('f16', 5, TABLE_ROWS, WIDTH))
    this.backend.createKvCache({ numBlocks: 16, blockSize: BLOCK_SIZE, layers: [{ numKvHeads: 1, headDim: 16 }] })
    await this.backend.ready()
    return this
  }

  /** A step of rows `first` .. of fixed random activations; the outputs' rows, one after another. */
  async step(
    first: number,
    numRows: number,
    outputs: readonly Activation[],
    record: () => void,
  ): Promise<Float32Array> {
    const { backend } = this
    for (const [index, activation] of [this.x, this.y, this.wide, this.logits, ...this.streams].entries()) {
      const all = randomValues(70 + index, ROWS * activation.cols, 2)
      writeRows(backend, activation, all.subarray(first * activation.cols), numRows)
    }
    const input = stepInput([{ start: first, numTokens: numRows, blocks: [0, 1] }])
    backend.beginStep({ ...input, tokens: input.positions })
    record()
    await backend.endStep()
    const results: number[] = []
    for (const output of outputs) results.push(...(await readRows(backend, output, numRows)))
    return Float32Array.from(results)
  }
}

interface Case {
  readonly outputs: (bench: Bench) => readonly Activation[]
  readonly record: (bench: Bench) => void
}

const CASES: Readonly<Record<string, Case>> = {
  'rmsNorm of groups': {
    outputs: ({ y }) => [y],
    record: ({ backend, x, y, groupNorm }) => backend.rmsNorm(y, x, { weight: groupNorm, eps: 1e-3 }),
  },
  'rmsNorm in place': {
    outputs: ({ x }) => [x],
    record: ({ backend, x, scale }) => backend.rmsNorm(x, x, { weight: scale, eps: 1e-3 }),
  },
  'normAdd with a scale': {
    outputs: ({ x }) => [x],
    record: ({ backend, x, y, scale }) => backend.normAdd(x, y, { weight: scale, eps: 1e-3 }, 0.3),
  },
  add: { outputs: ({ x }) => [x], record: ({ backend, x, y }) => backend.add(x, y, Math.SQRT1_2) },
  multiply: {
    outputs: ({ x }) => [x],
    record: ({ backend, x, wide }) => backend.multiply(x, { x: wide, offset: 97 }),
  },
  sparseGelu: { outputs: ({ x }) => [x], record: ({ backend, x }) => backend.sparseGelu(x, 0.84) },
  matchLength: { outputs: ({ x }) => [x], record: ({ backend, x, y }) => backend.matchLength(x, y) },
  predictStreams: {
    outputs: ({ x, streams }) => [x, ...streams],
    record: ({ backend, x, predict }) => backend.predictStreams(x, predict),
  },
  correctStreams: {
    outputs: ({ x, streams }) => [x, ...streams],
    record: ({ backend, x, scale, correct }) => backend.correctStreams(x, scale, correct),
  },
  'rows of a second table, added': {
    outputs: ({ x }) => [x],
    record: ({ backend, x, table }) => backend.embed(x, table, 0.7, true),
  },
}

/** Runs the suite of ops over single rows on a backend. */
export function describeRows(create: CreateBackend, tolerances: Tolerances): void {
  describe('rows', () => {
    let ours: Bench
    let theirs: Bench
    beforeAll(async () => {
      ours = await new Bench(await create(backendOptions())).load()
      theirs = await new Bench(await createReferenceBackend(backendOptions())).load()
    })
    afterAll(async () => {
      await ours?.backend.close()
      await theirs?.backend.close()
    })

    it.each(Object.entries(CASES))('%s', async (name, { outputs, record }) => {
      const whole = await ours.step(0, ROWS, outputs(ours), () => record(ours))
      expectClose(whole, await theirs.step(0, ROWS, outputs(theirs), () => record(theirs)), tolerances.f32, name)
      // A row alone has the bits that it has among others.
      const alone = await ours.step(13, 1, outputs(ours), () => record(ours))
      let from = 0
      let at = 0
      for (const { cols } of outputs(ours)) {
        const row = whole.slice(from + 13 * cols, from + 14 * cols)
        expectBitEqual(alone.slice(at, at + cols), row, `${name}, a row alone`)
        from += ROWS * cols
        at += cols
      }
    })

    it('keepOutputs moves rows to the front, and the ops behind it take no others', async () => {
      const { backend, x, y, wide } = ours
      const outputRows = Int32Array.of(0, 3, 4, 17)
      const values = (activation: Activation, seed: number) => randomValues(seed, ROWS * activation.cols)
      for (const [seed, activation] of [x, y, wide].entries())
        writeRows(backend, activation, values(activation, seed), ROWS)
      const input = stepInput([
        { start: 0, numTokens: 3, blocks: [0] },
        { start: 2, numTokens: ROWS - 3, blocks: [1, 2] },
      ])
      backend.beginStep({ ...input, outputRows })
      backend.keepOutputs([x, wide])
      backend.multiply(y, { x: wide, offset: 0 })
      await backend.endStep()
      const [movedX, movedWide, multiplied] = [
        await backend.debugRead(x),
        await backend.debugRead(wide),
        await backend.debugRead(y),
      ]
      const [givenX, givenY, givenWide] = [values(x, 0), values(y, 1), values(wide, 2)]
      for (const [i, row] of outputRows.entries()) {
        const at = (all: Float32Array, { cols }: Activation, index: number) =>
          all.slice(index * cols, (index + 1) * cols)
        expectBitEqual(at(movedX, x, i), at(givenX, x, row), `x of row ${row}`)
        expectBitEqual(at(movedWide, wide, i), at(givenWide, wide, row), `wide of row ${row}`)
        const factor = at(givenWide, wide, row)
        expectBitEqual(
          at(multiplied, y, i),
          at(givenY, y, i).map((value, col) => Math.fround(value * factor[col]!)),
          `y of output ${i}`,
        )
      }
      const from = outputRows.length * y.cols
      expectBitEqual(multiplied.slice(from, ROWS * y.cols), givenY.slice(from), 'y of other rows')
    })
  })
}
