/**
 * Decodes ggml's IQ1, IQ2 and IQ3 formats, 256 values per block. Each eight or four values are an entry of a code book, with a scale per group and mostly a
 * sign per value. They become q8 exactly, with the books' values as codes. Layouts from ggml-common.h.
 */
import { f16Table } from '../../kernels/float.ts'
import type { MatrixData } from '../../kernels/ops.ts'
import { IQ1_BOOK, IQ2_S_BOOK, IQ2_XS_BOOK, IQ2_XXS_BOOK, IQ3_S_BOOK, IQ3_XXS_BOOK } from './gguf-grids.ts'
import { q8Codes, u16 } from './gguf-planes.ts'

const u32 = (bytes: Uint8Array, at: number): number => (u16(bytes, at) | (u16(bytes, at + 2) << 16)) >>> 0

/** Eight signs from seven bits: the eighth makes the number of minus signs even. */
function signsOf(bits: number): number {
  let parity = bits ^ (bits >> 4)
  parity ^= parity >> 2
  parity ^= parity >> 1
  return bits | ((parity & 1) << 7)
}

/** Writes the `count` values of a book's entry. Bit j of `signs` negates value j. */
function put(codes: Int8Array, to: number, book: Int8Array, entry: number, count: number, signs: number): void {
  for (let j = 0; j < count; j++) {
    const value = book[entry * count + j]!
    codes[to + j] = ((signs >> j) & 1) === 0 ? value : -value
  }
}

/** 66 bytes per block: an f16 scale; per 32 values, four bytes of entries, then four times seven bits of signs and four bits of scale. */
export function iq2Xxs(bytes: Uint8Array, numValues: number): MatrixData {
  const half = f16Table()
  const data = q8Codes(numValues, 32, false)
  const book = IQ2_XXS_BOOK()
  for (let group = 0; group < numValues / 32; group++) {
    const block = (group >> 3) * 66
    const at = block + 2 + (group & 7) * 8
    const rest = u32(bytes, at + 4)
    data.scales[group] = half[u16(bytes, block)]! * (0.5 + (rest >>> 28)) * 0.25
    for (let k = 0; k < 4; k++)
      put(data.codes, group * 32 + 8 * k, book, bytes[at + k]!, 8, signsOf((rest >>> (7 * k)) & 127))
  }
  return data
}

/** 74 bytes per block: an f16 scale; per 8 values, nine bits of entry and seven of signs; then four bits of scale per 16 values. */
export function iq2Xs(bytes: Uint8Array, numValues: number): MatrixData {
  const half = f16Table()
  const data = q8Codes(numValues, 16, false)
  const book = IQ2_XS_BOOK()
  for (let group = 0; group < numValues / 16; group++) {
    const block = (group >> 4) * 74
    const own = group & 15
    const scale = (bytes[block + 66 + (own >> 1)]! >> (4 * (own & 1))) & 15
    data.scales[group] = half[u16(bytes, block)]! * (0.5 + scale) * 0.25
    for (let k = 0; k < 2; k++) {
      const word = u16(bytes, block + 2 + own * 4 + 2 * k)
      put(data.codes, group * 16 + 8 * k, book, word & 511, 8, signsOf(word >> 9))
    }
  }
  return data
}

/** 82 bytes per block: an f16 scale; per 8 values, eight bits of entry and eight signs; two more bits of entry; four bits of scale per 16 values. */
export function iq2S(bytes: Uint8Array, numValues: number): MatrixData {
  const half = f16Table()
  const data = q8Codes(numValues, 16, false)
  const book = IQ2_S_BOOK()
  for (let group = 0; group < numValues / 16; group++) {
    const block = (group >> 4) * 82
    const own = group & 15
    const scale = (bytes[block + 74 + (own >> 1)]! >> (4 * (own & 1))) & 15
    data.scales[group] = half[u16(bytes, block)]! * (0.5 + scale) * 0.25
    for (let k = 0; k < 2; k++) {
      const index = 2 * own + k
      const high = (bytes[block + 66 + (index >> 2)]! >> (2 * (index & 3))) & 3
      const entry = bytes[block + 2 + index]! | (high << 8)
      put(data.codes, group * 16 + 8 * k, book, entry, 8, bytes[block + 34 + index]!)
    }
  }
  return data
}

/** 98 bytes per block: an f16 scale; a byte of entry per 4 values; then per 32 values, four times seven bits of signs and four bits of scale. */
export function iq3Xxs(bytes: Uint8Array, numValues: number): MatrixData {
  const half = f16Table()
  const data = q8Codes(numValues, 32, false)
  const book = IQ3_XXS_BOOK()
  for (let group = 0; group < numValues / 32; group++) {
    const block = (group >> 3) * 98
    const own = group & 7
    const rest = u32(bytes, block + 66 + own * 4)
    data.scales[group] = half[u16(bytes, block)]! * (0.5 + (rest >>> 28)) * 0.5
    for (let k = 0; k < 8; k++) {
      const signs = signsOf((rest >>> (7 * (k >> 1))) & 127) >> (4 * (k & 1))
      put(data.codes, group * 32 + 4 * k, book, bytes[block + 2 + own * 8 + k]!, 4, signs)
    }
  }
  return data
}

/** 110 bytes per block: an f16 scale; nine bits of entry per 4 values, the ninth stored apart; a sign per value; four bits of scale per 32 values. */
export function iq3S(bytes: Uint8Array, numValues: number): MatrixData {
  const half = f16Table()
  const data = q8Codes(numValues, 32, true)
  const book = IQ3_S_BOOK()
  for (let group = 0; group < numValues / 32; group++) {
    const block = (group >> 3) * 110
    const own = group & 7
    const scale = (bytes[block + 106 + (own >> 1)]! >> (4 * (own & 1))) & 15
    data.scales[group] = half[u16(bytes, block)]! * (1 + 2 * scale)
    for (let k = 0; k < 8; k++) {
      const index = own * 8 + k
      const entry = bytes[block + 2 + index]! | (((bytes[block + 66 + own]! >> k) & 1) << 8)
      const signs = bytes[block + 74 + (index >> 1)]! >> (4 * (k & 1))
      put(data.codes, group * 32 + 4 * k, book, entry, 4, signs)
    }
  }
  return data
}

/** Writes eight of IQ1's values, which are -1, 0 or 1 plus or minus an eighth: in units of an eighth they are integers. */
function putEighths(codes: Int8Array, to: number, book: Int8Array, entry: number, isDown: boolean): void {
  for (let j = 0; j < 8; j++) codes[to + j] = 8 * book[entry * 8 + j]! + (isDown ? -1 : 1)
}

/**
 * 50 bytes per block: an f16 scale; a byte of entry per 8 values; per 32 values, four times three more bits of entry, three bits of scale and the sign of
 * the eighth.
 */
export function iq1S(bytes: Uint8Array, numValues: number): MatrixData {
  const half = f16Table()
  const data = q8Codes(numValues, 32, true)
  const book = IQ1_BOOK()
  for (let group = 0; group < numValues / 32; group++) {
    const block = (group >> 3) * 50
    const own = group & 7
    const word = u16(bytes, block + 34 + 2 * own)
    data.scales[group] = (half[u16(bytes, block)]! * (2 * ((word >> 12) & 7) + 1)) / 8
    for (let k = 0; k < 4; k++) {
      const entry = bytes[block + 2 + own * 4 + k]! | (((word >> (3 * k)) & 7) << 8)
      putEighths(data.codes, group * 32 + 8 * k, book, entry, (word & 0x8000) !== 0)
    }
  }
  return data
}

/**
 * 56 bytes per block: per 8 values, a byte of entry, three more bits of it and the sign of the eighth; per 16 values, three bits of scale. The bits of the
 * f16 scale lie between the latter.
 */
export function iq1M(bytes: Uint8Array, numValues: number): MatrixData {
  const half = f16Table()
  const data = q8Codes(numValues, 16, true)
  const book = IQ1_BOOK()
  for (let group = 0; group < numValues / 16; group++) {
    const block = (group >> 4) * 56
    const own = group & 15
    let bits = 0
    for (let k = 0; k < 4; k++) bits |= (u16(bytes, block + 48 + 2 * k) >> 12) << (4 * k)
    const scale = (u16(bytes, block + 48 + 2 * (own >> 2)) >> (3 * (own & 3))) & 7
    data.scales[group] = (half[bits]! * (2 * scale + 1)) / 8
    for (let k = 0; k < 2; k++) {
      const high = (bytes[block + 32 + own]! >> (4 * k)) & 15
      const entry = bytes[block + own * 2 + k]! | ((high & 7) << 8)
      putEighths(data.codes, group * 16 + 8 * k, book, entry, (high & 8) !== 0)
    }
  }
  return data
}
