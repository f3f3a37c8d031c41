/** What the decoders of ggml's block formats have in common. */

/** The little-endian 16-bit word at byte `at`. */
export const u16 = (bytes: Uint8Array, at: number): number => bytes[at]! | (bytes[at + 1]! << 8)

interface Q8Codes {
  readonly format: 'q8'
  readonly group: 16 | 32
  readonly isNarrow?: true
  readonly codes: Int8Array
  readonly scales: Float32Array
  readonly mins: null
}

/** Room for `numValues` q8 codes and their scales, without minimums. */
export function q8Codes(numValues: number, group: 16 | 32, isNarrow: boolean): Q8Codes {
  const planes = { codes: new Int8Array(numValues), scales: new Float32Array(numValues / group), mins: null }
  return { format: 'q8', group, ...(isNarrow ? { isNarrow } : {}), ...planes }
}
