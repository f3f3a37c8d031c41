// Codes of at most 6 bits as they are stored, three bytes for four. For 8 columns, 96 bytes: three vectors for the panel's first 8 rows, three for the
// last 8. The vectors' low six bits are the codes of 4 rows' columns 0 to 3, of the same rows' columns 4 to 7, and of the next 4 rows' columns 0 to 3;
// their upper two bits together, the first vector's uppermost, are the codes of those rows' columns 4 to 7.
import { QUAD } from './quantized-panel'

/** Bytes of a block of 32 columns. */
export const SIX_BYTES: usize = 384
/** Bytes of 8 columns, and of half of their rows. */
export const SIX_OCTET: usize = 96
export const SIX_SIDE: usize = 48

/**
 * A mask of the low six bits that no compiler knows to be constant (`blocks` is below 2^31): V8 would make a constant anew in loops, by three
 * instructions.
 */
// @ts-ignore: decorator
@inline
export function sixMask(blocks: usize): v128 {
  return i8x16.splat(<i8>(63 + <i32>(blocks >> 31)))
}

/** The fourth vector of codes, from three as they are stored; `mask`: 63. */
// @ts-ignore: decorator
@inline
export function fourth(a: v128, b: v128, c: v128, mask: v128): v128 {
  const lower = v128.or(i16x8.shr_u(v128.andnot(b, mask), 2), i16x8.shr_u(v128.andnot(c, mask), 4))
  return i16x8.shr_u(v128.or(v128.andnot(a, mask), lower), 2)
}

/** A block's codes as bytes in the order of `[8 column quads][16 rows][4 columns]`. */
// @ts-ignore: decorator
@inline
export function spreadSix(codes: usize, dst: usize): void {
  const mask = i8x16.splat(63)
  for (let octet: usize = 0; octet < 4; octet++) {
    for (let side: usize = 0; side < 2; side++) {
      const from = codes + octet * SIX_OCTET + side * SIX_SIDE
      const a = v128.load(from)
      const b = v128.load(from, 16)
      const c = v128.load(from, 32)
      const at = dst + octet * 2 * QUAD + side * 32
      v128.store(at, v128.and(a, mask))
      v128.store(at, v128.and(b, mask), QUAD)
      v128.store(at, v128.and(c, mask), 16)
      v128.store(at, fourth(a, b, c, mask), QUAD + 16)
    }
  }
}

/** Where rows `r` and its like, four columns each, begin in the vectors of 8 columns from `column` on. */
// @ts-ignore: decorator
@inline
function sixAt(r: usize, column: usize): usize {
  return (column >> 3) * SIX_OCTET + (r >> 3) * SIX_SIDE + ((r & 3) << 2)
}

/** Puts 8 codes of row `r`, the columns from `column` on, into a block that is zero there. */
export function packSix(low: u32, high: u32, r: usize, column: usize, codes: usize): void {
  const at = codes + sixAt(r, column)
  if ((r & 4) == 0) {
    store<u32>(at, load<u32>(at) | low)
    store<u32>(at, load<u32>(at, 16) | high, 16)
    return
  }
  store<u32>(at, load<u32>(at) | ((high & 0x30303030) << 2))
  store<u32>(at, load<u32>(at, 16) | ((high & 0x0c0c0c0c) << 4), 16)
  store<u32>(at, low | ((high & 0x03030303) << 6), 32)
}

/** The code of row `r` and a column. */
export function sixOf(codes: usize, r: usize, column: usize): i32 {
  const at = codes + sixAt(r, column) + (column & 3)
  const isHigh = (column & 4) != 0
  if ((r & 4) == 0) return load<u8>(isHigh ? at + 16 : at) & 63
  if (!isHigh) return load<u8>(at, 32) & 63
  return ((load<u8>(at) >> 6) << 4) | ((load<u8>(at, 16) >> 6) << 2) | (load<u8>(at, 32) >> 6)
}
