/**
 * Choosing tiles by measurement: `--retune`, and `miniserve tune` through it. Only tiles in output rows and input rows are measured: the
 * K-reduction tree is the matrix's own, so that a tuned adapter gives the same bits as an untuned one. Only matrix products have tiles to choose
 * between: they are 96 to 98 % of a step (bench model, by kernel), and attention's splits decide bits. Results are remembered in
 * `<cacheDir>/tuning/<hash>.json`, where the hash covers adapter, driver and the text of the kernels.
 */
import { createHash } from 'node:crypto'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Bucket, LinearVariant } from './linear.ts'
import { shapeKey } from './linear.ts'
import type { GpuMatrix } from './matrix.ts'
import { readShader } from './pipelines.ts'

/** Rounds of measurement; the candidates take turns, so that a disturbance hits all of them, and the least time counts. */
const ROUNDS = 3
/** A variant must win by this much over the default to be chosen: less is noise. */
const MARGIN = 0.97
const MAX_ERROR = 1e-6
const KERNEL_FILES = [
  'linear-broadcast.wgsl',
  'linear-vector.wgsl',
  'linear-matrix.wgsl',
  'linear-block.wgsl',
  'linear-io.wgsl',
  'linear-scales.wgsl',
  'linear-tree.wgsl',
  'linear-xsum.wgsl',
]

/** What tuning needs of the linear kernels (LinearKernels). */
export interface TunableKernels {
  readonly tuned: Map<string, LinearVariant>
  readonly buckets: readonly Bucket[]
  candidates(w: GpuMatrix, bucket: Bucket): readonly LinearVariant[]
}

export interface TuneTarget {
  readonly adapter: string
  readonly driver: string
  readonly linear: TunableKernels
  readonly matrices: readonly GpuMatrix[]
  /** Rows of a step at most. */
  readonly maxRows: number
  /** Multiplies random rows by a matrix with the tiles in force: device time of one call in microseconds, and the output's words. */
  run(matrix: GpuMatrix, numRows: number): Promise<{ micros: number; output: Uint32Array }>
  /** Normalised squared error of the tiles in force against float64, on a small random matrix of the same form. */
  error(like: GpuMatrix, numRows: number): Promise<number>
}

export interface TuningEntry {
  readonly shape: string
  readonly variant: LinearVariant
  readonly micros: number
  readonly defaultMicros: number
}

export interface TuningResult {
  readonly adapter: string
  readonly driver: string
  readonly entries: readonly TuningEntry[]
}

function tuningFile(cacheDir: string, adapter: string, driver: string): string {
  const hash = createHash('sha256').update(`${adapter}\n${driver}\n`)
  for (const file of KERNEL_FILES) hash.update(readShader(file))
  return join(cacheDir, 'tuning', `${hash.digest('hex').slice(0, 24)}.json`)
}

/** What was measured before on this adapter with these kernels, or null. A file that cannot be read counts as none. */
export async function readTuning(cacheDir: string, adapter: string, driver: string): Promise<TuningResult | null> {
  try {
    const parsed: unknown = JSON.parse(await readFile(tuningFile(cacheDir, adapter, driver), 'utf8'))
    return isTuningResult(parsed) ? parsed : null
  } catch {
    return null
  }
}

/** Adds results to the remembered ones of this adapter; a newer measurement of a shape replaces the older. */
export async function writeTuning(cacheDir: string, result: TuningResult): Promise<void> {
  const before = await readTuning(cacheDir, result.adapter, result.driver)
  const entries = new Map((before?.entries ?? []).map((entry) => [entry.shape, entry]))
  for (const entry of result.entries) entries.set(entry.shape, entry)
  const file = tuningFile(cacheDir, result.adapter, result.driver)
  await mkdir(join(cacheDir, 'tuning'), { recursive: true })
  await writeFile(`${file}.new`, `${JSON.stringify({ ...result, entries: [...entries.values()] }, null, 2)}\n`)
  await rename(`${file}.new`, file)
}

/** Puts remembered tiles in force. Entries that are no candidates (of an edited file, say) are left out: only checked variants may run. */
export function applyTuning(linear: TunableKernels, matrices: readonly GpuMatrix[], result: TuningResult): void {
  const chosen = new Map(result.entries.map(({ shape, variant }) => [shape, variant]))
  for (const matrix of matrices) {
    for (const bucket of linear.buckets) {
      const shape = shapeKey(matrix, bucket)
      const variant = chosen.get(shape)
      if (variant === undefined) continue
      if (linear.candidates(matrix, bucket).some(({ R, TM }) => R === variant.R && TM === variant.TM)) {
        linear.tuned.set(shape, variant)
      }
    }
  }
}

/** Measures the candidates of every distinct shape; the winners are in force afterwards. */
export async function tune(target: TuneTarget): Promise<TuningResult> {
  const { linear, maxRows } = target
  const entries: TuningEntry[] = []
  const seen = new Set<string>()
  for (const matrix of target.matrices) {
    for (const bucket of linear.buckets) {
      const shape = shapeKey(matrix, bucket)
      if (seen.has(shape)) continue
      seen.add(shape)
      const numRows = Math.min(maxRows, bucket === 8 ? 64 : bucket)
      const entry = await tuneShape(target, matrix, shape, linear.candidates(matrix, bucket).slice(0, 6), numRows)
      linear.tuned.set(shape, entry.variant)
      entries.push(entry)
    }
  }
  return { adapter: target.adapter, driver: target.driver, entries }
}

async function tuneShape(
  target: TuneTarget,
  matrix: GpuMatrix,
  shape: string,
  candidates: readonly LinearVariant[],
  numRows: number,
): Promise<TuningEntry> {
  const { linear } = target
  const eligible: { variant: LinearVariant; micros: number }[] = []
  let expected: Uint32Array | null = null
  for (const variant of candidates) {
    linear.tuned.set(shape, variant)
    if (!((await target.error(matrix, numRows)) < MAX_ERROR)) continue
    // Compiles and warms up as well.
    const { output } = await target.run(matrix, numRows)
    expected ??= output
    if (output.every((word, i) => word === expected![i])) eligible.push({ variant, micros: Infinity })
  }
  const first = eligible[0]
  if (first === undefined)
    throw new Error(`tuning ${shape}: not even the default tiles give correct values on this adapter`)
  for (let round = 0; round < ROUNDS; round++) {
    for (const candidate of eligible) {
      linear.tuned.set(shape, candidate.variant)
      candidate.micros = Math.min(candidate.micros, (await target.run(matrix, numRows)).micros)
    }
  }
  let best = first
  for (const candidate of eligible) {
    if (candidate.micros < first.micros * MARGIN && candidate.micros < best.micros) best = candidate
  }
  return { shape, variant: best.variant, micros: best.micros, defaultMicros: first.micros }
}

function isTuningResult(value: unknown): value is TuningResult {
  if (typeof value !== 'object' || value === null || !('entries' in value) || !Array.isArray(value.entries))
    return false
  return value.entries.every((entry: unknown) => {
    if (typeof entry !== 'object' || entry === null || !('shape' in entry) || !('variant' in entry)) return false
    const { variant } = entry
    return typeof variant === 'object' && variant !== null && 'R' in variant && 'TM' in variant
  })
}
