/** MXFP4 (OCP Microscaling Formats 1.0): 4-bit E2M1 codes, 32 of which share a power-of-two scale (E8M0). */
import type { MatrixData } from './ops.ts'

/** Twice the value of each code, so that all are integers. A code has a sign bit, two exponent bits and one fraction bit. */
export const MXFP4_VALUES = Int8Array.of(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)

/** The scale of the doubled values: half the format's 2^(exponent - 127). */
export function mxfp4Scale(exponent: number): number {
  return 2 ** (exponent - 128)
}

/** Converts to q8 with the same values. */
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
