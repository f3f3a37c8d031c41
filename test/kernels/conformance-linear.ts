/** embed, linear with all its options, normAdd. */
import { afterAll, beforeAll, describe, it } from 'vitest'
import { createReferenceBackend } from '../../src/kernels/reference/backend.ts'
import type { InspectableBackend } from '../../src/kernels/inspect.ts'
import type { Activation, LinearOptions, Matrix, Norm, StepInput, Vector } from '../../src/kernels/ops.ts'
import {
  BLOCK_SIZE,
  FORMATS,
  LIMITS,
  TOLERANCES,
  backendOptions,
  expectBitEqual,
  expectClose,
  expectPoison,
  firstRows,
  formatTolerance,
  isCoded,
  isFull,
  plainStep,
  randomMatrix,
  randomValues,
  stepInput,
  type Coverage,
  type CreateBackend,
  type Format,
  type Tolerances,
} from './fixtures.ts'

/** Row counts around every border a kernel may have: powers of two, and tiles of 16, 32 and 64. */
const ROW_COUNTS = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 32, 33, 64, 65]
/** Where each kernel is dear to compile, the default level leaves out one of those that differ in the number of rows only. */
const FEW_ROW_COUNTS = [1, 3, 7, 33]
const MOST_ROWS = 130

const EPILOGUES = [
  'plain',
  'norm',
  'bias',
  'residual',
  'norm bias',
  'bias residual',
  'norm silu',
  'gelu_tanh',
  'bias relu2',
  'xielu',
] as const
type Epilogue = (typeof EPILOGUES)[number]

interface LinearCase {
  readonly format: Format
  readonly outputs: number // out.cols
  readonly inputs: number
  readonly epilogue: Epilogue
}

function hasGlu(epilogue: Epilogue): boolean {
  return epilogue === 'norm silu' || epilogue === 'gelu_tanh'
}

/** Which of the three shapes an epilogue takes first: those with a norm, and those without, take each of them. */
const FIRST_SHAPE: Readonly<Record<Epilogue, number>> = {
  plain: 0,
  bias: 1,
  residual: 2,
  'bias residual': 0,
  gelu_tanh: 1,
  'bias relu2': 2,
  xielu: 0,
  norm: 0,
  'norm bias': 1,
  'norm silu': 2,
}

/** The epilogues of a format on shape `at` of `numShapes`. */
function chosenEpilogues(index: number, at: number, numShapes: number, coverage: Coverage): readonly Epilogue[] {
  if (!isFull) return [EPILOGUES[(index + 3 * at) % EPILOGUES.length]!]
  if (coverage === 'all') return EPILOGUES
  if (coverage === 'pairs') return EPILOGUES.filter((epilogue) => (index + FIRST_SHAPE[epilogue]) % numShapes === at)
  const alike = EPILOGUES.filter((epilogue) => epilogue.includes('norm') === (index % 2 === 0))
  return [alike[((index >> 1) * numShapes + at) % alike.length]!]
}

/** Formats whose kernels experts' matrices and f16 have too: left out at the default level where kernels are dear to compile. */
const ELSEWHERE: readonly Format[] = ['f32', 'q4 mins', 'mxfp4']

/** Default level: every format and every epilogue on a few shapes; full level: as `coverage` says. Quantised rows are whole groups. */
function linearCases(coverage: Coverage): LinearCase[] {
  const cases: LinearCase[] = []
  for (const [index, format] of FORMATS.entries()) {
    // Only the backend that does everything has kernels of their own for them.
    if (coverage !== 'all' && (format.includes('narrow') || format.includes('subs'))) continue
    if (!isFull && coverage !== 'all' && ELSEWHERE.includes(format)) continue
    const step = format.includes('subs') ? 256 : format.includes('g16') ? 48 : isCoded(format) ? 96 : 37
    const shapes = [
      { outputs: 40, inputs: step },
      { outputs: 100, inputs: step === 37 ? 100 : step === 48 ? 336 : step === 256 ? 768 : 608 },
      { outputs: 33, inputs: step === 256 ? 512 : 576 },
    ]
    for (const [at, shape] of shapes.entries()) {
      if (!isFull && coverage !== 'all' && at !== index % shapes.length) continue
      for (const epilogue of chosenEpilogues(index, at, shapes.length, coverage))
        cases.push({ format, ...shape, epilogue })
    }
  }
  return cases
}

interface LoadedCase {
  readonly w: Matrix
  readonly x: Activation
  readonly out: Activation
  readonly options: LinearOptions
}

/** Activations that lose nothing as int8 codes of blocks of 32: whole numbers, the first of each block 127. */
function exactlyQuantized(seed: number, rows: number, cols: number): Float32Array {
  return randomValues(seed, rows * cols).map((value, i) => ((i % cols) % 32 === 0 ? 127 : Math.round(value * 127)))
}

function loadNorm(backend: InspectableBackend, length: number, seed: number): Norm {
  const weight = backend.loadVector(
    `norm ${seed}`,
    randomValues(seed, length).map((value) => 1 + value / 2),
  )
  return { weight, eps: 1e-5 }
}

async function loadCase(backend: InspectableBackend, test: LinearCase, seed: number): Promise<LoadedCase> {
  const { epilogue, format, inputs, outputs } = test
  const glu = hasGlu(epilogue)
  const rows = glu ? 2 * outputs : outputs
  const label = `case ${seed}`
  const w = await backend.loadMatrix(label, rows, inputs, randomMatrix(format, seed, rows, inputs), { glu })
  let bias: Vector | null = null
  if (epilogue.includes('bias')) bias = backend.loadVector(`bias ${seed}`, randomValues(seed + 1, outputs, 3))
  const options: LinearOptions = {
    ...(epilogue.includes('norm') ? { norm: loadNorm(backend, inputs, seed + 2) } : {}),
    ...(bias === null ? {} : { bias }),
    ...(epilogue.includes('residual') ? { residual: true } : {}),
    ...(epilogue.includes('silu') ? { glu: 'silu' as const } : {}),
    ...(epilogue === 'gelu_tanh' ? { glu: 'gelu_tanh' as const } : {}),
    ...(epilogue.includes('relu2') ? { activation: 'relu2' as const } : {}),
    ...(epilogue === 'xielu' ? { activation: { kind: 'xielu', alphaP: 0.9, alphaN: 1.3, beta: 0.5 } as const } : {}),
  }
  return {
    w,
    options,
    x: backend.createActivation(`x ${seed}`, inputs),
    out: backend.createActivation(`out ${seed}`, outputs),
  }
}

/** One step of one op; the output starts as `initial` (poison, or what a residual adds to) and is returned whole. */
async function runOp(
  backend: InspectableBackend,
  input: StepInput,
  writes: readonly (readonly [Activation, Float32Array])[],
  record: () => void,
  out: Activation,
): Promise<Float32Array> {
  for (const [activation, values] of writes) backend.debugWrite(activation, values)
  backend.beginStep(input)
  record()
  await backend.endStep()
  return backend.debugRead(out)
}

export function describeLinear(create: CreateBackend, tolerances: Tolerances, coverage: Coverage): void {
  describe('linear', () => {
    const cases = linearCases(coverage)
    let tested: InspectableBackend
    let reference: InspectableBackend
    const loaded: { test: LinearCase; ours: LoadedCase; theirs: LoadedCase }[] = []

    beforeAll(async () => {
      tested = await create(backendOptions())
      reference = await createReferenceBackend(backendOptions())
      for (const [index, test] of cases.entries()) {
        const seed = 1000 + index * 10
        loaded.push({ test, ours: await loadCase(tested, test, seed), theirs: await loadCase(reference, test, seed) })
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

    async function run(backend: InspectableBackend, at: LoadedCase, values: Float32Array, numRows: number) {
      const { out, x, w, options } = at
      const all = randomValues(77, LIMITS.maxRows * out.cols, 2)
      // A residual adds to real values, everything else overwrites poison; the rows outside the step are poison in both.
      if (options.residual) all.fill(NaN, numRows * out.cols)
      else all.fill(NaN)
      const outside = new Float32Array(LIMITS.maxRows * x.cols).fill(NaN)
      outside.set(values.subarray(0, numRows * x.cols))
      const result = await runOp(
        backend,
        plainStep(numRows),
        [
          [x, outside],
          [out, all],
        ],
        () => backend.linear(out, x, w, options),
        out,
      )
      return result
    }

    for (const [index, test] of cases.entries()) {
      const { format, inputs, outputs, epilogue } = test
      it(`${format} [${outputs}, ${inputs}] ${epilogue}`, async () => {
        const { ours, theirs } = loaded[index]!
        const values = randomValues(5000 + index, MOST_ROWS * inputs)
        const all = await run(tested, ours, values, MOST_ROWS)
        expectPoison(all, MOST_ROWS, outputs, 'largest step')
        const full = firstRows(all, MOST_ROWS, outputs)
        const expected = firstRows(await run(reference, theirs, values, MOST_ROWS), MOST_ROWS, outputs)
        expectClose(full, expected, formatTolerance(format, tolerances), 'largest step')
        for (const numRows of isFull || coverage === 'all' ? ROW_COUNTS : FEW_ROW_COUNTS) {
          const some = await run(tested, ours, values, numRows)
          expectPoison(some, numRows, outputs, `${numRows} rows`)
          expectBitEqual(firstRows(some, numRows, outputs), firstRows(full, numRows, outputs), `${numRows} rows`)
        }
        if (isCoded(format) && ours.options.norm === undefined) {
          const exact = exactlyQuantized(6000 + index, MOST_ROWS, inputs)
          const got = firstRows(await run(tested, ours, exact, MOST_ROWS), MOST_ROWS, outputs)
          const wanted = firstRows(await run(reference, theirs, exact, MOST_ROWS), MOST_ROWS, outputs)
          expectClose(got, wanted, TOLERANCES.quantized, 'activations that int8 holds')
        }
        if (ours.options.residual) return
        // The same row elsewhere in the step.
        const moved = new Float32Array(MOST_ROWS * inputs)
        for (let row = 0; row < MOST_ROWS; row++) {
          moved.set(values.subarray(row * inputs, (row + 1) * inputs), (MOST_ROWS - 1 - row) * inputs)
        }
        const reversed = await run(tested, ours, moved, MOST_ROWS)
        for (const row of [0, 1, 7, 63, MOST_ROWS - 1]) {
          const at = (MOST_ROWS - 1 - row) * outputs
          const there = reversed.slice(at, at + outputs)
          expectBitEqual(there, full.slice(row * outputs, (row + 1) * outputs), `row ${row}`)
        }
      })
    }
  })

  describe('embed and normAdd', () => {
    const cols = 256
    const vocab = 70
    let tested: InspectableBackend
    let reference: InspectableBackend
    const loaded = new Map<InspectableBackend, Awaited<ReturnType<typeof load>>>()

    async function load(backend: InspectableBackend) {
      const tables: Matrix[] = []
      for (const [index, format] of FORMATS.entries()) {
        tables.push(
          await backend.loadMatrix(format, vocab, cols, randomMatrix(format, 300 + index, vocab, cols), { glu: false }),
        )
      }
      const norm = loadNorm(backend, cols, 400)
      const out = backend.createActivation('out', cols)
      const x = backend.createActivation('x', cols)
      backend.createKvCache({ numBlocks: 16, blockSize: BLOCK_SIZE, layers: [{ numKvHeads: 1, headDim: 16 }] })
      await backend.ready()
      return { tables, norm, out, x }
    }

    beforeAll(async () => {
      tested = await create(backendOptions())
      reference = await createReferenceBackend(backendOptions())
      for (const backend of [tested, reference]) loaded.set(backend, await load(backend))
    })
    afterAll(async () => {
      await tested?.close()
      await reference?.close()
    })

    for (const [index, format] of FORMATS.entries()) {
      it(`embed ${format}`, async () => {
        const tokens = [0, vocab - 1, 31, 32, 33, 5, 5, 63, 64]
        const input = stepInput([{ start: 0, numTokens: tokens.length, blocks: [0], tokens }])
        const run = async (backend: InspectableBackend) => {
          const { tables, out } = loaded.get(backend)!
          const poison = new Float32Array(LIMITS.maxRows * cols).fill(NaN)
          const record = () => backend.embed(out, tables[index]!, 2.5)
          return runOp(backend, input, [[out, poison]], record, out)
        }
        const ours = await run(tested)
        expectPoison(ours, tokens.length, cols, 'embed')
        const theirs = firstRows(await run(reference), tokens.length, cols)
        expectClose(firstRows(ours, tokens.length, cols), theirs, formatTolerance(format, tolerances), 'embed')
      })
    }

    it('a step of which a part is begun early gives what it gives as a whole', async () => {
      const numRows = 9
      const { out, x, norm } = loaded.get(tested)!
      const run = (isParted: boolean) => {
        const record = (): void => {
          tested.normAdd(out, x, norm)
          if (isParted) tested.flush?.()
          tested.normAdd(out, x, norm)
        }
        const writes = [
          [out, randomValues(420, numRows * cols)],
          [x, randomValues(421, numRows * cols, 4)],
        ] as const
        return runOp(tested, plainStep(numRows), writes, record, out)
      }
      const [whole, parted] = [firstRows(await run(false), numRows, cols), firstRows(await run(true), numRows, cols)]
      expectBitEqual(parted, whole, 'in two parts')
    })

    it('normAdd', async () => {
      const most = 67
      const residual = randomValues(410, most * cols)
      const values = randomValues(411, most * cols, 4)
      const run = async (backend: InspectableBackend, numRows: number) => {
        const { out, x, norm } = loaded.get(backend)!
        const initial = new Float32Array(LIMITS.maxRows * cols).fill(NaN)
        initial.set(residual.subarray(0, numRows * cols))
        const record = () => backend.normAdd(out, x, norm)
        return runOp(
          backend,
          plainStep(numRows),
          [
            [out, initial],
            [x, values],
          ],
          record,
          out,
        )
      }
      const full = await run(tested, most)
      expectPoison(full, most, cols, 'normAdd')
      expectClose(
        firstRows(full, most, cols),
        firstRows(await run(reference, most), most, cols),
        tolerances.f32,
        'normAdd',
      )
      for (const numRows of [1, 7, 16, 64]) {
        const some = firstRows(await run(tested, numRows), numRows, cols)
        expectBitEqual(some, firstRows(full, numRows, cols), `${numRows} rows`)
      }
    })
  })
}
