/** The ops that encoders add: layerNorm, embedAdd, activations of a product, attention in both directions, pool. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createReferenceBackend } from '../../src/kernels/reference/backend.ts'
import type { InspectableBackend } from '../../src/kernels/inspect.ts'
import type { AttentionOptions } from '../../src/kernels/attention-options.ts'
import type { Activation, LayerNorm, LinearOptions, Matrix, Pooling, StepInput, Vector } from '../../src/kernels/ops.ts'
import {
  BLOCK_SIZE,
  LIMITS,
  backendOptions,
  expectBitEqual,
  expectClose,
  FORMATS,
  formatTolerance,
  randomMatrix,
  randomValues,
  stepInput,
  readRows,
  writeRows,
  type CreateBackend,
  type Format,
  type Tolerances,
} from './fixtures.ts'

const [NUM_HEADS, HEAD_DIM] = [4, 16]
const WIDTH = NUM_HEADS * HEAD_DIM
/** Whole sequences of unlike lengths, past a split's border, and the shortest there is. */
const LENGTHS = [5, 1, 97, 17]
const PLACES = 40
/** Shorter than the longest sequence. */
const REACH = 11
const NUM_BUCKETS = 16
/** Columns of a norm: no multiple of anything. */
const ODD = 53

/** Sequences in blocks of their own, each from position 0. */
function wholeSequences(lengths: readonly number[]): StepInput {
  let block = 0
  const input = stepInput(
    lengths.map((numTokens) => {
      const blocks = Array.from({ length: Math.ceil(numTokens / BLOCK_SIZE) }, () => block++)
      return { start: 0, numTokens, blocks }
    }),
  )
  return { ...input, places: input.positions.map((position) => (position * 7) % PLACES) }
}

/** One backend with the operands of every case. */
class Bench {
  readonly backend: InspectableBackend
  readonly wide: Activation
  readonly odd: Activation
  readonly normed: Activation
  readonly x: Activation
  readonly out: Activation
  readonly qkv: Activation
  readonly tables = new Map<Format, Matrix>()
  readonly norms: readonly LayerNorm[]
  readonly bias: Vector
  readonly gatedBias: Vector
  readonly relative: Activation
  readonly biases: Readonly<Record<'distance' | 'disentangled', NonNullable<AttentionOptions['bias']>>>
  readonly vectors: Vector
  matrix!: Matrix
  gated!: Matrix

  constructor(backend: InspectableBackend) {
    this.backend = backend
    this.x = backend.createActivation('x', WIDTH)
    this.out = backend.createActivation('out', WIDTH)
    this.wide = backend.createActivation('wide', 48)
    this.odd = backend.createActivation('odd', ODD)
    this.normed = backend.createActivation('normed', ODD)
    this.qkv = backend.createActivation('qkv', 3 * WIDTH)
    const weight = backend.loadVector('weight', randomValues(1, ODD))
    const offset = backend.loadVector('offset', randomValues(2, ODD))
    this.norms = [offset, null].map((bias) => ({ weight, bias, eps: 1e-5 }))
    this.bias = backend.loadVector('bias', randomValues(3, 48))
    this.gatedBias = backend.loadVector('gated bias', randomValues(4, 96))
    this.relative = backend.createActivation('relative', 2 * NUM_HEADS * NUM_BUCKETS)
    this.vectors = backend.loadVector('vectors', randomValues(10, NUM_HEADS * NUM_BUCKETS * HEAD_DIM))
    const distances = 2 * REACH + 1
    const values = backend.loadVector('distances', randomValues(11, NUM_HEADS * distances, 3))
    const buckets = backend.loadVector(
      'buckets',
      Float32Array.from({ length: distances }, (_, i) => (i * 5) % NUM_BUCKETS),
    )
    this.biases = {
      distance: { kind: 'distance', values, reach: REACH },
      disentangled: { kind: 'disentangled', scores: this.relative, numBuckets: NUM_BUCKETS, buckets, reach: REACH },
    }
  }

  async load(): Promise<this> {
    for (const format of FORMATS)
      this.tables.set(
        format,
        await this.backend.loadMatrix(`table ${format}`, PLACES, WIDTH, randomMatrix(format, 5, PLACES, WIDTH)),
      )
    this.matrix = await this.backend.loadMatrix('w', 48, WIDTH, randomMatrix('f32', 6, 48, WIDTH))
    this.gated = await this.backend.loadMatrix('g', 96, WIDTH, randomMatrix('f32', 7, 96, WIDTH), { glu: true })
    this.backend.createKvCache({
      numBlocks: 16,
      blockSize: BLOCK_SIZE,
      layers: [{ numKvHeads: NUM_HEADS, headDim: HEAD_DIM }],
    })
    await this.backend.ready()
    return this
  }

  /** One step; the rows of `out` outside it must stay as they are. */
  async step(input: StepInput, source: Activation, values: Float32Array, record: () => void, out: Activation) {
    const { backend } = this
    writeRows(backend, out, values, 0)
    writeRows(backend, source, values, input.numRows)
    backend.beginStep(input)
    record()
    const { pooled } = await backend.endStep()
    return { result: await readRows(backend, out, input.numRows), pooled }
  }
}

export function describeEncoder(create: CreateBackend, tolerances: Tolerances): void {
  describe('encoders', () => {
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
    const input = wholeSequences(LENGTHS)
    const values = randomValues(8, LIMITS.maxRows * WIDTH, 3)

    /** The same step on both, compared. */
    async function compare(
      tolerance: number,
      what: string,
      run: (bench: Bench) => Promise<{ readonly result: Float32Array }>,
    ): Promise<Float32Array> {
      const [actual, expected] = [await run(ours), await run(theirs)]
      expectClose(actual.result, expected.result, tolerance, what)
      return actual.result
    }

    it('layerNorm, in place and not, with a bias and without', async () => {
      for (const index of [0, 1]) {
        const apart = await compare(tolerances.f32, `norm ${index}`, (bench) =>
          bench.step(
            input,
            bench.odd,
            values,
            () => bench.backend.layerNorm(bench.normed, bench.odd, bench.norms[index]!),
            bench.normed,
          ),
        )
        const inPlace = await ours.step(
          input,
          ours.odd,
          values,
          () => ours.backend.layerNorm(ours.odd, ours.odd, ours.norms[index]!),
          ours.odd,
        )
        expectBitEqual(inPlace.result, apart, 'in place')
      }
    })

    it.each(FORMATS)('embedAdd adds rows of a %s table', async (format) => {
      await compare(formatTolerance(format, tolerances), format, (bench) =>
        bench.step(input, bench.x, values, () => bench.backend.embedAdd(bench.x, bench.tables.get(format)!), bench.x),
      )
    })

    it.each(['gelu', 'gelu_tanh', 'silu'] as const)('%s of a product, and of a gate', async (activation) => {
      for (const scale of [0.02, 1]) {
        const scaled = values.map((value) => value * scale)
        for (const isGated of [false, true]) {
          await compare(tolerances.f32, `${activation} ${scale}`, (bench) => {
            const options: LinearOptions = isGated
              ? { glu: activation, bias: bench.gatedBias }
              : { activation, bias: bench.bias }
            const w = isGated ? bench.gated : bench.matrix
            return bench.step(
              input,
              bench.x,
              scaled,
              () => bench.backend.linear(bench.wide, bench.x, w, options),
              bench.wide,
            )
          })
        }
      }
    })

    const attend = (bench: Bench, step: StepInput, qkv: Float32Array, window: number | null, bidirectional = true) => {
      const shape = { layer: 0, numHeads: NUM_HEADS, numKvHeads: NUM_HEADS, headDim: HEAD_DIM }
      return bench.step(
        step,
        bench.qkv,
        qkv,
        () => {
          bench.backend.qkvRopeStore(bench.x, bench.qkv, { ...shape, qkNorm: null, rope: null })
          const options = { scale: HEAD_DIM ** -0.5, window, softcap: null, bidirectional }
          bench.backend.attention(bench.out, bench.x, { ...shape, ...options })
        },
        bench.out,
      )
    }
    const qkv = randomValues(9, LIMITS.maxRows * 3 * WIDTH, 2)

    it.each([null, 2, 9, 65])('attention to both sides, window %s', async (window) => {
      const together = await compare(tolerances.attention, `window ${window}`, (bench) =>
        attend(bench, input, qkv, window),
      )
      const causal = await attend(ours, input, qkv, window, false)
      expect(together).not.toEqual(causal.result)
      // A sequence alone has the bits that it has among others.
      let row = 0
      for (const length of LENGTHS) {
        const own = qkv.slice(row * 3 * WIDTH, (row + length) * 3 * WIDTH)
        const alone = await attend(ours, wholeSequences([length]), own, window)
        expectBitEqual(alone.result, together.slice(row * WIDTH, (row + length) * WIDTH), `sequence of ${length}`)
        row += length
      }
    })

    const headProducts = (bench: Bench): void => {
      const shape = { numHeads: NUM_HEADS, headDim: HEAD_DIM, count: NUM_BUCKETS, table: bench.vectors }
      for (const part of [0, 1]) {
        const x = { x: bench.qkv, offset: part * WIDTH }
        bench.backend.headProducts({ x: bench.relative, offset: part * NUM_HEADS * NUM_BUCKETS }, { x, ...shape })
      }
    }

    it('multiplies each head by vectors of its own', async () => {
      await compare(tolerances.f32, 'products', (bench) =>
        bench.step(input, bench.qkv, qkv, () => headProducts(bench), bench.relative),
      )
      const wrong = { x: ours.qkv, offset: 2 * WIDTH + HEAD_DIM }
      const shape = { numHeads: NUM_HEADS, headDim: HEAD_DIM, count: NUM_BUCKETS, table: ours.vectors }
      ours.backend.beginStep(input)
      expect(() => ours.backend.headProducts({ x: ours.relative, offset: 0 }, { x: wrong, ...shape })).toThrow(
        /do not fit/,
      )
      await ours.backend.endStep()
    })

    it.each(['distance', 'disentangled'] as const)('attention with a %s bias, windows and not', async (kind) => {
      for (const window of [null, 9]) {
        const run = (bench: Bench, step: StepInput, rows: Float32Array) =>
          bench.step(
            step,
            bench.qkv,
            rows,
            () => {
              const shape = { layer: 0, numHeads: NUM_HEADS, numKvHeads: NUM_HEADS, headDim: HEAD_DIM }
              bench.backend.qkvRopeStore(bench.x, bench.qkv, { ...shape, qkNorm: null, rope: null })
              headProducts(bench)
              const bias = bench.biases[kind]
              const options = { scale: HEAD_DIM ** -0.5, window, softcap: null, bidirectional: true, bias }
              bench.backend.attention(bench.out, bench.x, { ...shape, ...options })
            },
            bench.out,
          )
        const together = await compare(tolerances.attention, `${kind} ${window}`, (bench) => run(bench, input, qkv))
        const plain = await attend(ours, input, qkv, window)
        expect(together).not.toEqual(plain.result)
        let row = 0
        for (const length of LENGTHS) {
          const alone = await run(
            ours,
            wholeSequences([length]),
            qkv.slice(row * 3 * WIDTH, (row + length) * 3 * WIDTH),
          )
          expectBitEqual(alone.result, together.slice(row * WIDTH, (row + length) * WIDTH), `sequence of ${length}`)
          row += length
        }
      }
    })

    it.each(['mean', 'rootMean', 'weightedMean', 'max', 'first', 'last'] as const satisfies readonly Pooling[])(
      'pools the %s',
      async (pooling) => {
        const run = (bench: Bench) =>
          bench.step(input, bench.x, values, () => bench.backend.pool(bench.x, pooling), bench.x)
        const [actual, expected] = [await run(ours), await run(theirs)]
        expect(expected.pooled).toHaveLength(LENGTHS.length * WIDTH)
        expectClose(actual.pooled!, expected.pooled!, tolerances.f32, pooling)
        const plain = await ours.step(input, ours.x, values, () => {}, ours.x)
        expect(plain.pooled).toBeNull()
      },
    )
  })
}
