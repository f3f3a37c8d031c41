/** Ops that carry a state along a sequence: convolution, gatedDelta, selectiveScan; and sigmoidGate. */
import { afterAll, beforeAll, describe, it } from 'vitest'
import type { InspectableBackend } from '../../src/kernels/inspect.ts'
import type { Activation, Columns, StateShape, StepInput } from '../../src/kernels/ops.ts'
import { createReferenceBackend } from '../../src/kernels/reference/backend.ts'
import {
  BLOCK_SIZE,
  backendOptions,
  expectBitEqual,
  expectClose,
  expectPoison,
  isFull,
  LIMITS,
  plainStep,
  randomValues,
  type CreateBackend,
  type Tolerances,
} from './fixtures.ts'

interface StateCase {
  readonly name: string
  readonly kind: 'convolution' | 'gated convolution' | 'gatedDelta' | 'selectiveScan'
  readonly shape: StateShape
  readonly numKeyHeads: number
  readonly tilesKeyHeads: boolean
  readonly hasBias: boolean
}

const convolution = (channels: number, kernel: number, isGated: boolean, hasBias: boolean): StateCase => ({
  name: `${isGated ? 'gated ' : ''}convolution of ${channels} channels, kernel ${kernel}${hasBias ? ', with bias' : ''}`,
  kind: isGated ? 'gated convolution' : 'convolution',
  shape: { channels, kernel, heads: 0, valueDim: 0, keyDim: 0 },
  numKeyHeads: 0,
  tilesKeyHeads: false,
  hasBias,
})

const scan = (
  kind: 'gatedDelta' | 'selectiveScan',
  heads: number,
  numKeyHeads: number,
  keyDim: number,
  valueDim: number,
  tilesKeyHeads = false,
): StateCase => ({
  name: `${kind} of ${heads} heads of ${valueDim}, ${numKeyHeads} of ${keyDim}${tilesKeyHeads ? ', tiled' : ''}`,
  kind,
  shape: { channels: 8, kernel: 2, heads, valueDim, keyDim },
  numKeyHeads,
  tilesKeyHeads,
  hasBias: false,
})

const CASES: readonly StateCase[] = [
  convolution(70, 3, true, false),
  convolution(132, 4, false, true),
  scan('gatedDelta', 4, 2, 64, 24, true),
  scan('gatedDelta', 4, 2, 128, 128),
  scan('selectiveScan', 6, 2, 16, 20),
]
const FULL_CASES: readonly StateCase[] = [
  convolution(64, 2, false, false),
  convolution(33, 7, true, true),
  scan('gatedDelta', 3, 3, 12, 8),
  scan('gatedDelta', 8, 2, 256, 64),
  scan('selectiveScan', 4, 1, 128, 64),
  scan('selectiveScan', 4, 4, 8, 4),
]

const NUM_SLOTS = 9
/** Tokens of the text. */
const LENGTH = 61

/** Part of a sequence in a step: the text's tokens `first` to `end` - 1, from a slot to a slot. */
interface Piece {
  readonly first: number
  readonly end: number
  readonly read: number
  readonly write: number
  /** Another text. */
  readonly isOther?: boolean
}

/** A backend loaded for one op; runs pieces of a fixed random text, or of another. */
class Bench {
  readonly backend: InspectableBackend
  readonly outCols: number
  readonly #inCols: number
  readonly #x: Activation
  readonly #out: Activation
  readonly #gates: Activation
  readonly #gateCols: number
  readonly #run: () => void

  constructor(backend: InspectableBackend, { kind, shape, numKeyHeads, tilesKeyHeads, hasBias }: StateCase) {
    const { channels, kernel, heads, valueDim, keyDim } = shape
    this.backend = backend
    const isConvolution = heads === 0
    const offset = 5
    this.outCols = isConvolution ? channels : heads * valueDim
    this.#inCols = isConvolution
      ? offset + channels * (kind === 'gated convolution' ? 3 : 1)
      : heads * valueDim + 2 * numKeyHeads * keyDim
    this.#gateCols = this.outCols + 2 * heads + 3
    this.#x = backend.createActivation('x', this.#inCols)
    this.#out = backend.createActivation('out', this.outCols)
    this.#gates = backend.createActivation('gates', this.#gateCols)
    backend.createKvCache({ numBlocks: 16, blockSize: BLOCK_SIZE, layers: [{ numKvHeads: 1, headDim: 8 }] })
    // The op's layer is not the first one, nor is what it works on the first of a slot.
    backend.createStatePool({ numSlots: NUM_SLOTS, layers: [{ ...shape, channels: 3 }, shape] })
    const vector = (seed: number, length: number, map: (value: number) => number = (value) => value) =>
      backend.loadVector(`v${seed}`, randomValues(seed, length).map(map))
    if (isConvolution) {
      const weight = vector(11, channels * kernel)
      const bias = hasBias ? vector(12, channels) : null
      const options = { layer: 1, weight, bias, kernel, offset, isGated: kind === 'gated convolution' }
      this.#run = () => backend.convolution(this.#out, this.#x, options)
      return
    }
    const columns = (first: number): Columns => ({ x: this.#gates, offset: first })
    const width = kind === 'gatedDelta' ? valueDim : heads * valueDim
    const common = {
      layer: 1,
      numKeyHeads,
      tilesKeyHeads,
      decayRate: vector(13, heads, (value) => -Math.exp(1.5 * value)),
      stepBias: vector(14, heads),
      gate: columns(3),
      step: columns(3 + this.outCols),
      norm: { weight: vector(15, width, (value) => 1 + 0.3 * value), eps: 1e-5 },
    }
    const delta = { ...common, beta: columns(3 + this.outCols + heads) }
    const selective = { ...common, skip: vector(16, heads) }
    this.#run = () =>
      kind === 'gatedDelta'
        ? backend.gatedDelta(this.#out, this.#x, delta)
        : backend.selectiveScan(this.#out, this.#x, selective)
  }

  /** The output's rows, piece after piece. */
  async step(pieces: readonly Piece[]): Promise<Float32Array> {
    const { backend } = this
    const text = (seed: number, cols: number): Float32Array =>
      new Float32Array(
        pieces.flatMap(({ first, end, isOther = false }) => [
          ...randomValues(isOther ? seed + 50 : seed, LENGTH * cols, 1.5).subarray(first * cols, end * cols),
        ]),
      )
    const poison = new Float32Array(LIMITS.maxRows * this.outCols).fill(Number.NaN)
    backend.debugWrite(this.#x, text(1, this.#inCols))
    backend.debugWrite(this.#gates, text(2, this.#gateCols))
    backend.debugWrite(this.#out, poison)
    const numRows = pieces.reduce((sum, { first, end }) => sum + end - first, 0)
    const starts = pieces.reduce<number[]>((all, { first, end }) => [...all, all.at(-1)! + end - first], [0])
    const input: StepInput = {
      ...plainStep(numRows),
      numSequences: pieces.length,
      sequenceStarts: Int32Array.from(starts),
      blockTables: new Int32Array(pieces.length * LIMITS.maxBlocksPerSequence),
      stateSlots: Int32Array.from(pieces.flatMap(({ read, write }) => [read, write])),
    }
    backend.beginStep(input)
    this.#run()
    await backend.endStep()
    const all = await backend.debugRead(this.#out)
    expectPoison(all, numRows, this.outCols, 'out')
    return all.slice(0, numRows * this.outCols)
  }
}

export function describeStates(create: CreateBackend, tolerances: Tolerances): void {
  describe.each(isFull ? [...CASES, ...FULL_CASES] : CASES)('$name', (test) => {
    let bench: Bench
    let whole: Float32Array
    beforeAll(async () => {
      bench = new Bench(await create(backendOptions()), test)
      whole = await bench.step([{ first: 0, end: LENGTH, read: -1, write: 4 }])
    }, 60_000)
    afterAll(() => bench.backend.close())

    const rowsOf = (first: number, end: number): Float32Array => whole.slice(first * bench.outCols, end * bench.outCols)

    it('is close to the reference', async () => {
      const reference = new Bench(createReferenceBackend(backendOptions()), test)
      const expected = await reference.step([{ first: 0, end: LENGTH, read: -1, write: 0 }])
      expectClose(whole, expected, tolerances.attention, test.kind)
      await reference.backend.close()
    })

    it('has the same bits in chunks, in whatever slots, with whatever neighbours', async () => {
      const other = { first: 0, end: 11, read: -1, write: 7, isOther: true }
      const borders = [0, 1, 2, 17, 18, 40, LENGTH]
      let slot = -1
      for (const [i, first] of borders.slice(0, -1).entries()) {
        const end = borders[i + 1]!
        // Two steps on in the same slot, then one to another.
        const write = [0, 0, 0, 5, 5, 2][i]!
        const piece = { first, end, read: slot, write }
        const isFirst = i % 2 === 0
        const rows = await bench.step(isFirst ? [piece, other] : [other, piece])
        const at = isFirst ? 0 : 11 * bench.outCols
        expectBitEqual(
          rows.slice(at, at + (end - first) * bench.outCols),
          rowsOf(first, end),
          `tokens ${first} to ${end}`,
        )
        slot = write
      }
    })

    it('leaves a slot that is only read as it is, for several to go on from', async () => {
      await bench.step([{ first: 0, end: 30, read: -1, write: 3 }])
      // What the slots hold that are written is of no account.
      const pieces = [1, 6, 8].map((write, i) => ({ first: 30, end: 33 + 4 * i, read: 3, write }))
      for (let round = 0; round < 2; round++) {
        let at = 0
        const rows = await bench.step(pieces)
        for (const { first, end } of pieces) {
          const length = (end - first) * bench.outCols
          expectBitEqual(rows.slice(at, at + length), rowsOf(first, end), `tokens ${first} to ${end}, round ${round}`)
          at += length
        }
      }
    })
  })

  it.each([
    ['its column', 70],
    ['one for all', 1],
  ])('sigmoidGate multiplies by the sigmoid of %s', async (_, gateCols) => {
    const cols = 70
    const [numRows, x, gate] = [3, randomValues(1, 3 * cols, 4), randomValues(2, 3 * gateCols, 9)]
    const backend = await create(backendOptions())
    const activations = [backend.createActivation('x', cols), backend.createActivation('gate', gateCols)] as const
    backend.createKvCache({ numBlocks: 16, blockSize: BLOCK_SIZE, layers: [{ numKvHeads: 1, headDim: 8 }] })
    backend.debugWrite(activations[0], new Float32Array(LIMITS.maxRows * cols).fill(Number.NaN))
    backend.debugWrite(activations[0], x)
    backend.debugWrite(activations[1], gate)
    backend.beginStep(plainStep(numRows))
    backend.sigmoidGate(...activations)
    await backend.endStep()
    const all = await backend.debugRead(activations[0])
    expectPoison(all, numRows, cols, 'x')
    expectClose(
      all.slice(0, numRows * cols),
      x.map((value, i) => value / (1 + Math.exp(-gate[Math.floor((i * gateCols) / cols)]!))),
      tolerances.f32,
      'sigmoidGate',
    )
    await backend.close()
  })
}
