/** MXFP4 (OCP Microscaling Formats 1.0): E2M1 codes of four bits, with a power of two (E8M0) for each 32 of them. */
import type { MatrixData } from './ops.ts'

/** What a code means, times two: sign, two bits of exponent, one of fraction. */
export const MXFP4_VALUES = Int8Array.of(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)

/** The factor of a doubled value. 2^(exponent - 127) by the format, halved. */
export function mxfp4Scale(exponent: number): number {
  return 2 ** (exponent - 128)
}

/** The same values with 8 bits per code. */
export function mxfp4AsQ8({ codes, exponents }: MatrixData & { format: 'mxfp4' }): MatrixData & { format: 'q8' } {
  const wide = new Int8Array(codes.length * 2)
  for (let i = 0; i < codes.length; i++) {
    wide[2 * i] = MXFP4_VALUES[codes[i]! & 15]!
    wide[2 * i + 1] = MXFP4_VALUES[codes[i]! >> 4]!
  }
  return {
    format: 'q8',
    group: 32,
    isNarrow: true,
    codes: wide,
    scales: Float32Array.from(exponents, mxfp4Scale),
    mins: null,
  }
}
