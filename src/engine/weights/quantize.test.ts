import { expect, test } from 'vitest'
import { compareGolden, forcedDecode, goldenRequest, readGolden } from '../../../test/golden/golden.ts'
import { dequantize } from '../../kernels/dequantize.ts'
import { loadModel } from '../runner/model.ts'
import { quantizeQ4, quantizeQ8 } from './quantize.ts'

/** Deterministic values with a roughly normal distribution. */
function values(length: number): Float32Array {
  let state = 9
  const uniform = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32
  return Float32Array.from({ length }, () => (uniform() + uniform() + uniform() + uniform() - 2) * 0.05)
}

const errorOf = (source: Float32Array, found: Float32Array): number =>
  source.reduce((sum, value, i) => sum + (value - found[i]!) ** 2, 0) /
  source.reduce((sum, value) => sum + value ** 2, 0)

test('the error of quantised weights fits the number of bits', () => {
  const source = values(32 * 400)
  expect(errorOf(source, dequantize(quantizeQ8(source)))).toBeLessThan(6e-5)
  const q4 = errorOf(source, dequantize(quantizeQ4(source)))
  expect(q4).toBeLessThan(0.008)
  // The refit has to beat plain rounding between the extremes of a group.
  const plain = Float32Array.from(source)
  for (let g = 0; g < plain.length; g += 32) {
    const group = source.subarray(g, g + 32)
    const min = Math.min(...group)
    const scale = (Math.max(...group) - min) / 15
    group.forEach((value, i) => (plain[g + i] = Math.round((value - min) / scale) * scale + min))
  }
  expect(q4).toBeLessThan(0.93 * errorOf(source, plain))
})

test('groups of zeros, of one value and with an outlier survive', () => {
  for (const group of [
    new Float32Array(32),
    new Float32Array(32).fill(-0.25),
    Float32Array.from({ length: 32 }, (_, i) => (i === 7 ? 1000 : 0)),
  ]) {
    for (const quantised of [quantizeQ8(group), quantizeQ4(group)]) {
      const found = dequantize(quantised)
      group.forEach((value, i) => expect(found[i]).toBeCloseTo(value, 2))
    }
  }
})

async function run(quantization: 'none' | 'q8' | 'q4') {
  const golden = readGolden('smollm3')
  const model = await loadModel(goldenRequest('smollm3', { quantization }))
  const output = await forcedDecode(model, [...golden.prompt, ...golden.tokens], 32, [0, 1, 2, 3])
  await model.backend.close()
  return {
    report: compareGolden(golden, output),
    info: model.info,
  }
}

test('a float checkpoint is served quantised, and reported as what it is', async () => {
  const [full, q8, q4] = [await run('none'), await run('q8'), await run('q4')]
  expect(full.report.logitsNmse).toBeLessThan(1e-9)
  expect(q8.report.logitsNmse).toBeGreaterThan(1e-7)
  expect(q8.report.logitsNmse).toBeLessThan(5e-3)
  expect(q4.report.logitsNmse).toBeGreaterThan(q8.report.logitsNmse)
  expect(q4.report.logitsNmse).toBeLessThan(0.5)
  expect(q8.info.weightBytes).toBeLessThan(0.65 * full.info.weightBytes)
  expect(q4.info.weightBytes).toBeLessThan(q8.info.weightBytes)
  expect(new Set([full, q8, q4].map(({ info }) => info.fingerprint)).size).toBe(3)
})
