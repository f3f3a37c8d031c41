import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  BLOCK_SIZE,
  LIMITS,
  backendOptions,
  expectBitEqual,
  expectClose,
  firstRows,
  plainStep,
  randomMatrix,
  randomValues,
  type Format,
} from '../../../test/kernels/fixtures.ts'
import type { InspectableBackend } from '../inspect.ts'
import type { Activation, Matrix, MatrixData } from '../ops.ts'
import { createReferenceBackend } from '../reference/backend.ts'
import { createCpuBackend } from './backend.ts'
import { chooseRelaxed, fastestBuild, type KernelBuild, type ProbeTimes } from './kernel-build.ts'

const PAIRS = { quadOfRows: 1, oneRow: 0.4 }

test.each<[string, ProbeTimes, KernelBuild]>([
  ['a tenth faster for a quad of rows', { quadOfRows: 0.9, oneRow: 0.4 }, 'dots'],
  ['less than that', { quadOfRows: 0.91, oneRow: 0.2 }, 'relaxed'],
  ['slower', { quadOfRows: 1.5, oneRow: 0.6 }, 'relaxed'],
  ['faster, but slower for one row', { quadOfRows: 0.5, oneRow: 0.43 }, 'relaxed'],
  ['faster, and for one row within what a measurement varies by', { quadOfRows: 0.5, oneRow: 0.415 }, 'dots'],
])('the probe decides the build, and the driver names it: dot products are %s', async (_, dots, expected) => {
  const kernels = chooseRelaxed({ relaxed: PAIRS, dots })
  expect(kernels).toBe(expected)
  const backend = await createCpuBackend({ ...backendOptions(), threads: 1, kernels })
  const name = expected === 'dots' ? 'relaxed SIMD with dot products' : 'relaxed SIMD'
  expect(backend.info.driver).toBe(`node ${process.version}, WebAssembly ${name}`)
  await backend.close()
})

test('a backend takes what the probe finds here', async () => {
  const [found, backend] = [await fastestBuild(), await createCpuBackend({ ...backendOptions(), threads: 1 })]
  const given = await createCpuBackend({ ...backendOptions(), threads: 1, kernels: found })
  expect(backend.info.driver).toBe(given.info.driver)
  await backend.close()
  await given.close()
})

test('a process that has nothing else to do waits for its kernels', async () => {
  const url = (file: string) => JSON.stringify(new URL(file, import.meta.url))
  const program = `
    import { readFileSync } from 'node:fs'
    import { compile } from ${url('./host.js')}
    await compile(readFileSync(new URL(${url('./kernels.wasm')})))
    process.stdout.write('compiled')`
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program])
  expect(stdout).toBe('compiled')
})

const [ROWS, OUTPUTS, INPUTS] = [7, 40, 768]

/** Codes as large as they get: sums of pairs of products are nowhere larger. */
function greatest(format: Format): MatrixData {
  const data = randomMatrix(format, 7, OUTPUTS, INPUTS)
  if (data.format === 'q4') data.codes.fill(0xff)
  if (data.format === 'q8') data.codes.fill(format.endsWith('mins') ? 63 : 31)
  return data
}

interface Loaded {
  readonly backend: InspectableBackend
  readonly x: Activation
  readonly out: Activation
  readonly matrices: ReadonlyMap<Format, readonly [Matrix, Matrix]>
}

const FORMATS: readonly Format[] = [
  'q4',
  'q4 mins',
  'q4 subs mins',
  'q8 narrow',
  'q8 narrow g16 mins',
  'q8 narrow subs g16',
]

async function load(backend: InspectableBackend): Promise<Loaded> {
  const matrices = new Map<Format, readonly [Matrix, Matrix]>()
  for (const format of FORMATS) {
    const random = await backend.loadMatrix(format, OUTPUTS, INPUTS, randomMatrix(format, 1, OUTPUTS, INPUTS))
    matrices.set(format, [random, await backend.loadMatrix('greatest', OUTPUTS, INPUTS, greatest(format))])
  }
  const [x, out] = [backend.createActivation('x', INPUTS), backend.createActivation('out', OUTPUTS)]
  backend.createKvCache({ numBlocks: 16, blockSize: BLOCK_SIZE, layers: [{ numKvHeads: 1, headDim: 16 }] })
  await backend.ready()
  return { backend, x, out, matrices }
}

async function product({ backend, x, out }: Loaded, w: Matrix, values: Float32Array, numRows: number) {
  const all = new Float32Array(LIMITS.maxRows * INPUTS)
  all.set(values.subarray(0, numRows * INPUTS))
  backend.debugWrite(x, all)
  backend.beginStep(plainStep(numRows))
  backend.linear(out, x, w, {})
  await backend.endStep()
  return firstRows(await backend.debugRead(out), numRows, OUTPUTS)
}

let pairs: Loaded
let dots: Loaded
let reference: Loaded

beforeAll(async () => {
  pairs = await load(await createCpuBackend({ ...backendOptions(), threads: 1, kernels: 'relaxed' }))
  dots = await load(await createCpuBackend({ ...backendOptions(), threads: 1, kernels: 'dots' }))
  reference = await load(await createReferenceBackend(backendOptions()))
})
afterAll(async () => {
  for (const { backend } of [pairs, dots, reference]) await backend.close()
})

test.each(FORMATS)('%s has the same bits by dot products', async (format) => {
  const [random, most] = [0, 1].map((i) => [pairs, dots, reference].map((loaded) => loaded.matrices.get(format)![i]!))
  const values = randomValues(2, ROWS * INPUTS)
  for (const numRows of [1, 2, 3, 4, ROWS]) {
    const expected = await product(pairs, random![0]!, values, numRows)
    expectBitEqual(await product(dots, random![1]!, values, numRows), expected, `${numRows} rows`)
  }
  // Rows of one magnitude have the codes 127 and -127 alone.
  const extremes = values.map((_, i) => (i < INPUTS ? -1 : i < 2 * INPUTS ? 1 : i % 4 < 2 ? 1 : -1))
  const expected = await product(pairs, most![0]!, extremes, ROWS)
  expectBitEqual(await product(dots, most![1]!, extremes, ROWS), expected, 'greatest codes')
  expectClose(expected, await product(reference, most![2]!, extremes, ROWS), 1e-10, 'greatest codes')
})
