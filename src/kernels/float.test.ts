import { expect, test } from 'vitest'
import { bf16ToF32, decodeBf16, decodeF16, encodeF16, f16ToF32, f32ToBf16, f32ToF16 } from './float.ts'

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

test('bfloat16 is the rounded upper half of an f32', () => {
  for (const half of [0, 0x3f80, 0xbf80, 0x7f7f, 0x0001, 0x4049]) expect(f32ToBf16(bf16ToF32(half))).toBe(half)
  expect(bf16ToF32(0x3f80)).toBe(1)
  expect(f32ToBf16(1 + 2 ** -8)).toBe(0x3f80) // a tie, to even
  expect(f32ToBf16(1 + 3 * 2 ** -8)).toBe(0x3f82)
  expect(f32ToBf16(1 + 2 ** -8 + 2 ** -20)).toBe(0x3f81)
  expect(Number.isNaN(bf16ToF32(f32ToBf16(NaN)))).toBe(true)
})

test('the array forms agree with the scalar ones', () => {
  const halves = Uint16Array.from({ length: 1000 }, (_, i) => (i * 61) & 0x7bff)
  expect(encodeF16(decodeF16(halves))).toEqual(halves)
  expect([...decodeBf16(halves)]).toEqual([...halves].map(bf16ToF32))
})
