import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { linearSources, vectorColumns } from './linear.ts'
import { formOf } from './matrix.ts'

const SHAPES = JSON.parse(readFileSync(new URL('../../../bench/lib/shapes.json', import.meta.url), 'utf8')) as Record<
  string,
  Readonly<Record<'hidden' | 'inner' | 'heads' | 'kvHeads' | 'headDim' | 'vocab', number>>
>

test('one row of a model of a billion weights and more has four workgroups for each of 128 cores', () => {
  const form = formOf('q4', 32, false)
  for (const name of ['llama-3.2-1b', 'llama-3.1-8b']) {
    const { hidden, inner, heads, kvHeads, headDim, vocab } = SHAPES[name]!
    for (const [rows, cols, isGated] of [
      [(heads + 2 * kvHeads) * headDim, hidden, false],
      [hidden, heads * headDim, false],
      [2 * inner, hidden, true],
      [hidden, inner, false],
      [vocab, hidden, false],
    ] as const) {
      const shape = { rows, cols, form, isGated }
      const { SEGMENTS, LANES } = linearSources(shape, true).get(1)!.defines
      expect(vectorColumns(shape, rows), `${name} ${rows} x ${cols}`).toBeGreaterThanOrEqual(512)
      // At least two blocks per thread, so that one is read while the other is used.
      expect(SEGMENTS! * 2, `${name} ${rows} x ${cols}`).toBeLessThanOrEqual(cols / 32)
      expect(LANES! * SEGMENTS!).toBeLessThanOrEqual(256)
      // Where results are quantised in whole blocks: the same reduction tree, and four waves of 32 threads for each of 128 cores.
      const next = { ...shape, next: { NIBBLES: 1, GROUP16: 0, NORM: 1 } }
      const { defines } = linearSources(next, true).get(1)!
      expect([defines['SEGMENTS'], defines['LANES']]).toEqual([SEGMENTS, 32])
      expect(vectorColumns(next, rows) * SEGMENTS!, `${name} ${rows} x ${cols}`).toBeGreaterThanOrEqual(512)
    }
  }
})

test('a matrix has one K-reduction tree, whatever the number of rows', () => {
  for (const rows of [64, 576, 4096, 32768]) {
    for (const isGated of [false, true]) {
      const sources = linearSources({ rows, cols: 2048, form: formOf('q8', 16, true), isGated }, false)
      expect(new Set([...sources.values()].map(({ defines }) => defines['SEGMENTS'])).size).toBe(1)
    }
  }
})
