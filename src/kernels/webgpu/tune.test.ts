import { mkdtemp, rm, writeFile, readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Bucket, LinearVariant } from './linear.ts'
import type { GpuMatrix } from './matrix.ts'
import { applyTuning, readTuning, tune, writeTuning, type TuningResult } from './tune.ts'

const FORM = { FORMAT: 16, UNITS: 4, GROUP: 32, MINS: 0 }
const matrix: GpuMatrix = {
  id: 1,
  label: 'w',
  rows: 64,
  cols: 64,
  format: 'f16',
  form: FORM,
  numBlocks: 2,
  gluRun: 0,
  weightScale: 1,
  shards: [],
}
const SHAPE = '16.32.0|64x64|1'
const CANDIDATES: readonly LinearVariant[] = [
  { R: 4, TM: 1 },
  { R: 2, TM: 1 },
  { R: 8, TM: 1 },
]

function fakeLinear(): {
  tuned: Map<string, LinearVariant>
  buckets: Bucket[]
  candidates: () => readonly LinearVariant[]
} {
  return { tuned: new Map(), buckets: [1], candidates: () => CANDIDATES }
}

/** Runs `tune` with made-up times, errors and outputs for each R. */
function tuneWith(
  micros: Record<number, number>,
  errors: Record<number, number> = {},
  outputs: Record<number, number> = {},
) {
  const linear = fakeLinear()
  const inForce = () => linear.tuned.get(SHAPE)!.R
  return tune({
    adapter: 'a',
    driver: 'd',
    linear,
    matrices: [matrix, matrix],
    maxRows: 64,
    run: () => Promise.resolve({ micros: micros[inForce()]!, output: Uint32Array.of(outputs[inForce()] ?? 1) }),
    error: () => Promise.resolve(errors[inForce()] ?? 0),
  })
}

describe('tune', () => {
  it('chooses the fastest variant, once a shape', async () => {
    const { entries } = await tuneWith({ 4: 100, 2: 60, 8: 80 })
    expect(entries).toEqual([{ shape: SHAPE, variant: CANDIDATES[1], micros: 60, defaultMicros: 100 }])
  })

  it('keeps the default where nothing is clearly faster', async () => {
    expect((await tuneWith({ 4: 100, 2: 99, 8: 98 })).entries[0]?.variant).toEqual(CANDIDATES[0])
  })

  it('never chooses a variant with wrong values, NaN, or other bits than the default', async () => {
    const times = { 4: 100, 2: 10, 8: 20 }
    expect((await tuneWith(times, { 2: 1e-3 })).entries[0]?.variant).toEqual(CANDIDATES[2])
    expect((await tuneWith(times, { 2: NaN, 8: NaN })).entries[0]?.variant).toEqual(CANDIDATES[0])
    expect((await tuneWith(times, {}, { 2: 7, 8: 7 })).entries[0]?.variant).toEqual(CANDIDATES[0])
  })

  it('says so when an adapter computes nothing right', async () => {
    await expect(tuneWith({ 4: 1, 2: 1, 8: 1 }, { 4: 1, 2: 1, 8: 1 })).rejects.toThrow(/not even the default/)
  })
})

describe('remembered tuning', () => {
  let folder: string
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tuning-'))
  })
  afterEach(() => rm(folder, { recursive: true, force: true }))

  const result = (shape: string, R: number): TuningResult => ({
    adapter: 'a',
    driver: 'd',
    entries: [{ shape, variant: { R, TM: 1 }, micros: 1, defaultMicros: 2 }],
  })

  it('is read back for the same adapter and driver only, newer shapes added to older ones', async () => {
    await writeTuning(folder, result(SHAPE, 2))
    await writeTuning(folder, result('other', 4))
    await writeTuning(folder, result(SHAPE, 8))
    const read = await readTuning(folder, 'a', 'd')
    expect(read?.entries.map(({ shape, variant }) => [shape, variant.R])).toEqual([
      [SHAPE, 8],
      ['other', 4],
    ])
    expect(await readTuning(folder, 'a', 'another driver')).toBeNull()
  })

  it('does not trust a broken file', async () => {
    await writeTuning(folder, result(SHAPE, 2))
    const [name] = await readdir(join(folder, 'tuning'))
    await writeFile(join(folder, 'tuning', name!), '{"entries": [{}]}')
    expect(await readTuning(folder, 'a', 'd')).toBeNull()
  })

  it('puts only candidates in force', () => {
    const linear = fakeLinear()
    applyTuning(linear, [matrix], result(SHAPE, 2))
    expect(linear.tuned.get(SHAPE)).toEqual(CANDIDATES[1])
    linear.tuned.clear()
    applyTuning(linear, [matrix], result(SHAPE, 16))
    expect(linear.tuned.size).toBe(0)
  })
})
