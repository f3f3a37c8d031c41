// Panels with sub-scales (super-panel.ts) from scales and minimums as f32: the factor of 256 columns is found again, exactly.
import { halfOffset, raised, spread, toHalf } from './pack'
import { MINS, OCTET } from './quantized-panel'
import { packSix } from './six-bits'
import { factorsAt, SUBS, superBlockAt, superBlockBytes } from './super-panel'

/** Binary exponent of the lowest bit set in a f32 that is not 0. */
// @ts-ignore: decorator
@inline
function lowestBit(value: f32): i32 {
  const bits = reinterpret<u32>(value)
  return <i32>((bits >> 23) & 255) + ctz<i32>((bits & 0x7fffff) | 0x800000) - 150
}

function greatestDivisor(a: u32, b: u32): u32 {
  while (b != 0) {
    const rest = a % b
    a = b
    b = rest
  }
  return a
}

/** The factor of `count` f32 that are integers of 8 bits times one of at most 11 bits; 0 where all are 0, NaN where they are not. */
function factorOf(values: usize, count: usize): f32 {
  let unit = 200
  for (let i: usize = 0; i < count; i++) {
    const value = load<f32>(values + (i << 2))
    if (value != 0) unit = min(unit, lowestBit(value))
  }
  if (unit == 200) return 0
  const scale = 1.0 / ldexp(unit)
  let divisor: u32 = 0
  let largest: u32 = 0
  for (let i: usize = 0; i < count; i++) {
    const whole = abs<f64>(<f64>load<f32>(values + (i << 2)) * scale)
    if (!(whole < 16777216)) return NaN
    divisor = greatestDivisor(divisor, <u32>whole)
    largest = max(largest, <u32>whole)
  }
  // What f16 cannot hold goes back into the integers.
  for (let k: u32 = 3; (divisor >> ctz<u32>(divisor)) > 2047 && k < 256; k += 2) {
    if (divisor % k == 0 && ((divisor / k) >> ctz<u32>(divisor / k)) <= 2047) divisor /= k
  }
  if ((divisor >> ctz<u32>(divisor)) > 2047 || largest / divisor > 128) return NaN
  return <f32>(<f64>divisor * ldexp(unit))
}

/** 2^n, -1022 < n < 1023. */
// @ts-ignore: decorator
@inline
function ldexp(n: i32): f64 {
  return reinterpret<f64>(<u64>(n + 1023) << 52)
}

/** Sub-scales of 256 columns of a row to `dst`, those of the second 16 columns of a block 16 bytes on; the factor to `factor`. False: there is none. */
function packSubs(values: usize, count: usize, blockBytes: usize, dst: usize, factor: usize, up: f32): bool {
  let unit = factorOf(values, count)
  if (unit != unit) return false
  // A sub-scale of 128 is -128 times a negative factor.
  for (let i: usize = 0; i < count; i++) if (unit != 0 && load<f32>(values + (i << 2)) / unit > 127) unit = -unit
  for (let i: usize = 0; i < count; i++) {
    const sub = unit == 0 ? 0 : <i32>(load<f32>(values + (i << 2)) / unit)
    if (sub < -128 || sub > 127) return false
    const at = count == 16 ? (i >> 1) * blockBytes + ((i & 1) << 4) : i * blockBytes
    store<i8>(dst + at, <i8>sub)
  }
  store<u16>(factor, toHalf(unit * up))
  return true
}

/**
 * One row: `scales` and `mins` (0: none) f32 per group, `codes` as they arrive. Factors are stored times `up`. False where scales are no such
 * products.
 */
export function packSuperRow(
  scales: usize,
  mins: usize,
  codes: usize,
  cols: usize,
  flags: i32,
  isSix: bool,
  r: usize,
  up: f32,
  panel: usize,
): bool {
  const blockBytes = superBlockBytes(isSix)
  const groups: usize = isSix ? 16 : 8
  for (let s: usize = 0; s < cols >> 8; s++) {
    const block = superBlockAt(panel, s << 8, flags, isSix) + r
    const factor = factorsAt(panel, s << 8, flags, isSix) + halfOffset(r)
    if (!packSubs(scales + (s * groups << 2), groups, blockBytes, block, factor, up)) return false
    if ((flags & MINS) != 0) {
      if (!packSubs(mins + (s * groups << 2), groups, blockBytes, block + 16, factor + 32, up)) return false
    }
  }
  for (let k: usize = 0; k < cols; k += 8) {
    const to = superBlockAt(panel, k, flags, isSix) + SUBS
    if (isSix) {
      packSix(raised(load<u32>(codes + k)), raised(load<u32>(codes + k, 4)), r, k & 31, to)
    } else {
      const nibbles = load<u32>(codes + (k >> 1))
      store<u32>(to + ((k >> 3) & 3) * OCTET + (r << 2), spread(nibbles) | (spread(nibbles >> 16) << 4))
    }
  }
  return true
}
