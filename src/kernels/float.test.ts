import { expect, test } from 'vitest'
import { decodeBf16, decodeF16, encodeF16, f16Table, f32ToF16, narrowBf16 } from './float.ts'

const f16ToF32 = (half: number): number => f16Table()[half]!

test('every binary16 survives the way to f32 and back', () => {
  for (let half = 0; half < 65536; half++) {
    const value = f16ToF32(half)
    if (Number.isNaN(value)) expect(Number.isNaN(f16ToF32(f32ToF16(value)))).toBe(true)
    else if (f32ToF16(value) !== half)
      expect.fail(`${half.toString(16)} -> ${value} -> ${f32ToF16(value).toString(16)}`)
  }
})

test('known binary16 values', () => {
  expect(f16ToF32(0x3c00)).toBe(1)
  expect(f16ToF32(0xc000)).toBe(-2)
  expect(f16ToF32(0x7bff)).toBe(65504)
  expect(f16ToF32(0x0001)).toBe(2 ** -24)
  expect(f16ToF32(0x3555)).toBe(1365 / 4096)
  expect(f16ToF32(0xfc00)).toBe(-Infinity)
})

test('rounding to binary16 is to nearest, ties to even, across normals, subnormals and overflow', () => {
  for (let half = 0; half < 0x7bff; half++) {
    const low = f16ToF32(half)
    const high = f16ToF32(half + 1)
    const middle = (low + high) / 2
    const even = half % 2 === 0 ? half : half + 1
    const step = high - low
    if (f32ToF16(middle) !== even) expect.fail(`tie above ${low}`)
    if (f32ToF16(Math.fround(middle - step / 64)) !== half) expect.fail(`below the tie above ${low}`)
    if (f32ToF16(Math.fround(middle + step / 64)) !== half + 1) expect.fail(`above the tie above ${low}`)
  }
  expect(f32ToF16(65519)).toBe(0x7bff)
  expect(f32ToF16(65520)).toBe(0x7c00)
  expect(f32ToF16(1e30)).toBe(0x7c00)
  expect(f32ToF16(2 ** -25)).toBe(0)
  expect(f32ToF16(-0)).toBe(0x8000)
})

test('the array form agrees with the scalar one', () => {
  const halves = Uint16Array.from({ length: 1000 }, (_, i) => (i * 61) & 0x7bff)
  expect(encodeF16(decodeF16(halves))).toEqual(halves)
})

test('bfloat16 is the upper half of an f32', () => {
  expect([...decodeBf16(Uint16Array.of(0x3f80, 0xbf80, 0x7f7f, 0x0001))]).toEqual([1, -1, 255 * 2 ** 120, 2 ** -133])
  expect(decodeBf16(Uint16Array.of(0x7fc0))).toEqual(Float32Array.of(NaN))
})

test('bfloat16 becomes binary16 of the same values, or stays as it is', () => {
  const words = Uint16Array.from({ length: 0x477f - 0x3880 }, (_, i) => (i & 1) * 0x8000 + 0x3880 + i)
  const values = decodeBf16(words)
  expect(narrowBf16(words)).toBe(true)
  expect(decodeF16(words)).toEqual(values)
  for (const beyond of [0x4780, 0xc780, 0x7f80, 0x7fc0]) {
    const kept = Uint16Array.of(0x3f80, beyond)
    expect(narrowBf16(kept)).toBe(false)
    expect([...kept]).toEqual([0x3f80, beyond])
  }
})
