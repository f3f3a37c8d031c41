/** route and experts, together: what a row's experts make of it, by its logits. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createReferenceBackend } from '../../src/kernels/reference/backend.ts'
import type { InspectableBackend } from '../../src/kernels/inspect.ts'
import type { Activation, ExpertsOptions, ExpertWeights, RouteOptions, Routing } from '../../src/kernels/ops.ts'
import {
  BLOCK_SIZE,
  FORMATS,
  backendOptions,
  expectBitEqual,
  expectClose,
  firstRows,
  formatTolerance,
  plainStep,
  randomMatrix,
  randomValues,
  isCoded,
  isFull,
  readRows,
  writeRows,
  type Coverage,
  type CreateBackend,
  type Format,
  type Tolerances,
} from './fixtures.ts'

const NUM_EXPERTS = 12
const MOST_ROWS = 130
const ROW_COUNTS = [1, 2, 7, 33]

interface ExpertsCase {
  readonly format: Format
  readonly topK: number
  readonly hidden: number
  readonly inner: number
  /** null: experts without a gate, of gelu. */
  readonly glu: NonNullable<ExpertsOptions['glu']> | null
  readonly hasNorm: boolean
  readonly hasBias: boolean
  readonly residual: boolean
  readonly route: Omit<RouteOptions, 'bias' | 'expertScales'> & {
    readonly hasBias: boolean
    readonly hasExpertScales?: boolean
  }
}

const ROUTES: readonly ExpertsCase['route'][] = [
  { scores: 'softmax', groups: null, normalizes: true, scale: 1, hasBias: false },
  { scores: 'sigmoid', groups: { count: 4, used: 2 }, normalizes: true, scale: 2.5, hasBias: true },
  { scores: 'softmax', groups: null, normalizes: false, scale: 1, hasBias: true, hasExpertScales: true },
]
const GLUS = ['silu', 'silu_clamped', 'gelu_tanh', null] as const

/** Where kernels are dear to compile, one float and two quantised formats stand for the rest at the default level. */
const FEW_FORMATS: readonly Format[] = ['f16', 'q4 mins', 'mxfp4']

const caseOf = (format: Format, i: number): ExpertsCase => {
  const isQuantized = isCoded(format)
  const hasSubScales = format.includes('subs')
  return {
    format,
    topK: 1 + ((i + 1) % 4),
    hidden: hasSubScales ? 256 : isQuantized ? 96 : 37,
    inner: hasSubScales ? 256 : isQuantized ? 64 : 50,
    glu: GLUS[i % 4]!,
    hasNorm: i % 2 === 0,
    hasBias: i % 3 === 1,
    residual: i % 2 === 1,
    route: ROUTES[i % 3]!,
  }
}

interface Loaded {
  readonly x: Activation
  readonly logits: Activation
  readonly out: Activation
  readonly weights: ExpertWeights
  readonly routing: Routing
  readonly route: RouteOptions
  readonly options: ExpertsOptions
}

async function load(backend: InspectableBackend, test: ExpertsCase, seed: number): Promise<Loaded> {
  const { format, topK, hidden, inner, glu } = test
  const upRows = glu === null ? inner : 2 * inner
  const matrixOf = (rows: number, cols: number, first: number) => async (expert: number) =>
    randomMatrix(format, first + expert, rows, cols)
  const vector = (length: number, at: number, magnitude = 1) =>
    backend.loadVector(`vector ${seed + at}`, randomValues(seed + at, length, magnitude))
  const gateUp = await backend.loadExperts(
    `gate and up ${seed}`,
    NUM_EXPERTS,
    upRows,
    hidden,
    matrixOf(upRows, hidden, seed),
    { glu: glu !== null },
  )
  const down = await backend.loadExperts(`down ${seed}`, NUM_EXPERTS, hidden, inner, matrixOf(hidden, inner, seed + 50))
  return {
    x: backend.createActivation(`x ${seed}`, hidden),
    logits: backend.createActivation(`logits ${seed}`, NUM_EXPERTS),
    out: backend.createActivation(`out ${seed}`, hidden),
    weights: {
      gateUp,
      down,
      ...(test.hasBias
        ? {
            bias: vector(hidden, 5, 2),
            gateUpBias: vector(NUM_EXPERTS * upRows, 1, 3),
            downBias: vector(NUM_EXPERTS * hidden, 2, 3),
          }
        : {}),
    },
    routing: backend.createRouting(`routing ${seed}`, { numExperts: NUM_EXPERTS, topK, inner, outer: hidden }),
    route: {
      ...test.route,
      bias: test.route.hasBias ? vector(NUM_EXPERTS, 3, 0.2) : null,
      expertScales: test.route.hasExpertScales === true ? vector(NUM_EXPERTS, 4, 2) : null,
    },
    options: {
      ...(glu === null ? { activation: 'gelu' } : { glu }),
      residual: test.residual,
      ...(test.hasNorm ? { norm: { weight: vector(hidden, 4), eps: 1e-5 } } : {}),
    },
  }
}

export function describeExperts(create: CreateBackend, tolerances: Tolerances, coverage: Coverage): void {
  describe('route and experts', () => {
    const cases = FORMATS.map(caseOf).filter(
      ({ format }) => isFull || coverage === 'all' || FEW_FORMATS.includes(format),
    )
    let tested: InspectableBackend
    let reference: InspectableBackend
    const loaded: { ours: Loaded; theirs: Loaded }[] = []

    beforeAll(async () => {
      tested = await create(backendOptions())
      reference = await createReferenceBackend(backendOptions())
      for (const [index, test] of cases.entries()) {
        const seed = 20_000 + index * 100
        loaded.push({ ours: await load(tested, test, seed), theirs: await load(reference, test, seed) })
      }
      for (const backend of [tested, reference]) {
        backend.createKvCache({ numBlocks: 16, blockSize: BLOCK_SIZE, layers: [{ numKvHeads: 1, headDim: 16 }] })
        await backend.ready()
      }
    })
    afterAll(async () => {
      await tested?.close()
      await reference?.close()
    })

    async function run(
      backend: InspectableBackend,
      at: Loaded,
      values: Float32Array,
      logits: Float32Array,
      numRows: number,
    ): Promise<Float32Array> {
      const before = at.options.residual ? randomValues(78, MOST_ROWS * at.out.cols, 2) : new Float32Array(0)
      writeRows(backend, at.x, values, numRows)
      writeRows(backend, at.logits, logits, numRows)
      writeRows(backend, at.out, before, numRows)
      backend.beginStep(plainStep(numRows))
      backend.route(at.routing, at.logits, at.route)
      backend.experts(at.out, at.x, at.weights, at.routing, at.options)
      await backend.endStep()
      return readRows(backend, at.out, numRows)
    }

    it.each(cases.map((test, index) => [`${test.format} top ${test.topK} ${test.glu}`, test, index] as const))(
      '%s',
      async (_, { hidden, format, residual }, index) => {
        const { ours, theirs } = loaded[index]!
        const values = randomValues(30_000 + index, MOST_ROWS * hidden)
        const logits = randomValues(31_000 + index, MOST_ROWS * NUM_EXPERTS, 2)
        // Equal experts: the lowest is chosen, everywhere.
        logits.copyWithin(5 * NUM_EXPERTS + 6, 5 * NUM_EXPERTS, 5 * NUM_EXPERTS + 6)
        const full = await run(tested, ours, values, logits, MOST_ROWS)
        const expected = await run(reference, theirs, values, logits, MOST_ROWS)
        expectClose(full, expected, formatTolerance(format, tolerances), 'largest step')
        for (const numRows of ROW_COUNTS) {
          const some = await run(tested, ours, values, logits, numRows)
          expectBitEqual(some, firstRows(full, numRows, hidden), `${numRows} rows`)
        }
        if (residual) return
        // The same rows in another order, among which all go to other neighbours.
        const order = Array.from({ length: MOST_ROWS }, (_row, i) => (i * 7 + 3) % MOST_ROWS)
        const moved = (source: Float32Array, cols: number) => {
          const target = new Float32Array(source.length)
          for (const [row, from] of order.entries())
            target.set(source.subarray(from * cols, (from + 1) * cols), row * cols)
          return target
        }
        const shuffled = await run(tested, ours, moved(values, hidden), moved(logits, NUM_EXPERTS), MOST_ROWS)
        expectBitEqual(shuffled, moved(full, hidden), 'rows in another order')
      },
    )

    it('refuses what does not fit', () => {
      const { ours } = loaded[0]!
      const other = tested.createActivation('of another width', 5)
      tested.beginStep(plainStep(1))
      expect(() => tested.route(ours.routing, other, ours.route)).toThrow(/5 logits for 12 experts/)
      expect(() => tested.experts(other, ours.x, ours.weights, ours.routing, ours.options)).toThrow(/does not fit/)
    })
  })
}
