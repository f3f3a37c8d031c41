// Packs rows of weight matrices into panels. A work unit is one panel; the source rows of a batch of panels are in staging memory.
import { takeUnits } from './pool'
import { narrow } from './simd'
import { packSuperRow } from './pack-super'
import { GROUP16, headerBytes, MINS, NARROW, OCTET, PAIR, QUAD, SUPER } from './quantized-panel'

/** Why values cannot be packed; the messages are in ../matrices.ts. */
const NOT_FINITE: i32 = 1
const NO_COMMON_FACTOR: i32 = 2

@unmanaged
export class PackCommand {
  opcode: i32
  format: i32
  flags: i32
  panels: i32 // of this batch
  cols: usize
  padded: usize
  rows: i32 // valid rows of the batch; the rest of the last panel is zero
  source: usize // values or codes [rows][cols]
  scales: usize // f32 [rows][groups]
  mins: usize
  dst: usize
  panelBytes: usize
  panelStep: i32 // 2 when gate and up panels alternate
  factors: usize // f32, one per panel of dst
  invalid: usize // i32: set to one of the reasons above if a value cannot be packed
  counter: i32
}

export function pack(c: PackCommand): void {
  for (;;) {
    const panel = takeUnits(changetype<usize>(c) + offsetof<PackCommand>('counter'), 1)
    if (panel >= c.panels) return
    const first = panel << 4
    const rows = min(16, c.rows - first)
    const dst = c.dst + c.panelBytes * (panel * c.panelStep)
    const factor = c.factors + (<usize>(panel * c.panelStep) << 2)
    if (c.format == 0) packFloat(c, first, rows, dst, factor)
    else if (c.format == 1) packHalf(c, first, rows, dst, factor)
    else packQuantized(c, first, rows, dst, factor)
  }
}

function packFloat(c: PackCommand, first: i32, rows: i32, dst: usize, factor: usize): void {
  store<f32>(factor, 1)
  memory.fill(dst, 0, c.padded << 6)
  for (let r = 0; r < rows; r++) {
    const source = c.source + (c.cols * (first + r) << 2)
    const at = dst + (<usize>r << 2)
    for (let k: usize = 0; k < c.cols; k++) {
      const value = load<f32>(source + (k << 2))
      if (!isFinite<f32>(value)) store<i32>(c.invalid, NOT_FINITE)
      store<f32>(at + (k << 6), value)
    }
  }
}

// @ts-ignore: decorator
@inline
export function halfOffset(r: usize): usize {
  return ((r & 8) << 1) + ((r & 3) << 2) + ((r & 4) >> 1)
}

/** 2^n as f32, -126 <= n <= 127. */
// @ts-ignore: decorator
@inline
export function powerOfTwo(n: i32): f32 {
  return reinterpret<f32>((n + 127) << 23)
}

/**
 * Packs f16 values exactly. A panel without large values is stored times 2^10, so that subnormals become normal numbers: a subnormal operand costs
 * some processors a hundred cycles.
 */
function packHalf(c: PackCommand, first: i32, rows: i32, dst: usize, factor: usize): void {
  memory.fill(dst, 0, c.padded << 5)
  let largest: u32 = 0
  for (let r = 0; r < rows; r++) {
    const source = c.source + (c.cols * (first + r) << 1)
    for (let k: usize = 0; k < c.cols; k++) largest = max(largest, <u32>load<u16>(source + (k << 1)) & 0x7fff)
  }
  const exponent = <i32>(largest >> 10)
  if (exponent == 31) store<i32>(c.invalid, NOT_FINITE)
  const shift = min(10, 30 - min(30, exponent))
  for (let r = 0; r < rows; r++) {
    const source = c.source + (c.cols * (first + r) << 1)
    const at = dst + halfOffset(r)
    for (let k: usize = 0; k < c.cols; k++) {
      store<u16>(at + (k << 5), scaleHalf(<u32>load<u16>(source + (k << 1)), shift))
    }
  }
  store<f32>(factor, powerOfTwo(16 - shift))
}

/** f16 bits times 2^shift; the caller knows that the result does not overflow. */
function scaleHalf(bits: u32, shift: i32): u16 {
  const sign = bits & 0x8000
  let magnitude = bits & 0x7fff
  if (magnitude >= 0x400) return <u16>(sign | (magnitude + (<u32>shift << 10)))
  // Subnormal: shift the fraction up until it is normal or the shift is used up.
  while (shift > 0 && magnitude != 0 && magnitude < 0x400) {
    magnitude <<= 1
    shift--
  }
  // Having reached 0x400 it reads as exponent 1 already; what is left of the shift goes to the exponent.
  if (magnitude >= 0x400) magnitude += <u32>shift << 10
  return <u16>(sign | magnitude)
}

/** Largest magnitude of `count` f32. */
function amplitude(source: usize, count: usize, start: f32): f32 {
  let largest = start
  for (let i: usize = 0; i < count << 2; i += 4) largest = max(largest, abs(load<f32>(source + i)))
  return largest
}

// @ts-ignore: decorator
@inline
export function toHalf(value: f32): u16 {
  return <u16>i32x4.extract_lane(narrow(f32x4.splat(value)), 0)
}

/** Four signed codes plus NARROW_OFFSET, byte by byte. */
export function raised(codes: u32): u32 {
  return ((codes & 0x7f7f7f7f) + 0x20202020) ^ (codes & 0x80808080)
}

/** Four nibbles, the lowest first, as bytes. */
export function spread(nibbles: u32): u32 {
  return (nibbles & 15) | ((nibbles & 0xf0) << 4) | ((nibbles & 0xf00) << 8) | ((nibbles & 0xf000) << 12)
}

/**
 * Scales and minimums are stored as f16, times a power of two per panel that puts the largest between 2^14 and 2^15. This rounds them to 11 bits; the
 * rounding error of int8 activations is a hundred times larger.
 */
function packQuantized(c: PackCommand, first: i32, rows: i32, dst: usize, factor: usize): void {
  memory.fill(dst, 0, c.panelBytes)
  const grouped = (c.flags & GROUP16) != 0
  const hasMins = (c.flags & MINS) != 0
  const wide = c.format == 2
  const isNarrow = (c.flags & NARROW) != 0
  const shift: usize = grouped ? 4 : 5
  const groups = c.cols >> shift
  const header = headerBytes(c.flags)
  const blockBytes = header + (wide ? 512 : 256)
  let largest = amplitude(c.scales + (groups * first << 2), groups * rows, 0)
  if (hasMins) largest = amplitude(c.mins + (groups * first << 2), groups * rows, largest)
  if (!isFinite<f32>(largest)) store<i32>(c.invalid, NOT_FINITE)
  const exponent = largest == 0 ? 0 : max(-100, min(60, 14 - ((reinterpret<i32>(largest) >> 23) - 127)))
  const up = powerOfTwo(exponent)
  for (let r: usize = 0; r < <usize>rows; r++) {
    const half = halfOffset(r)
    const row = <usize>first + r
    if ((c.flags & SUPER) != 0) {
      const mins: usize = hasMins ? c.mins + (groups * row << 2) : 0
      const codes = c.source + (wide ? c.cols : c.cols >> 1) * row
      const isExact = packSuperRow(c.scales + (groups * row << 2), mins, codes, c.cols, c.flags, wide, r, up, dst)
      if (!isExact && isFinite<f32>(largest)) store<i32>(c.invalid, NO_COMMON_FACTOR)
      continue
    }
    for (let g: usize = 0; g < groups; g++) {
      const block = dst + (grouped ? g >> 1 : g) * blockBytes
      const second: usize = grouped ? (g & 1) << 5 : 0
      store<u16>(block + second + half, toHalf(load<f32>(c.scales + (groups * row + g << 2)) * up))
      if (hasMins) {
        store<u16>(block + (grouped ? 64 : 32) + second + half, toHalf(load<f32>(c.mins + (groups * row + g << 2)) * up))
      }
    }
    if (isNarrow) {
      // Four columns at a time: groups of 16 or 32 make rows of whole quads.
      const source = c.source + c.cols * row
      for (let k: usize = 0; k < c.cols; k += 4) {
        let codes = load<u32>(source + k)
        if (!hasMins) codes = raised(codes)
        store<u32>(dst + (k >> 5) * blockBytes + header + (k & 28) * (QUAD >> 2) + (r << 2), codes)
      }
    } else if (wide) {
      const source = c.source + c.cols * row
      for (let k: usize = 0; k < c.cols; k += 2) {
        store<u16>(dst + (k >> 5) * blockBytes + header + (k & 30) * (PAIR >> 1) + (r << 1), load<u16>(source + k))
      }
    } else {
      // Of each 8 columns, the first four to low nibbles and the last four to high ones.
      const source = c.source + (c.cols >> 1) * row
      for (let k: usize = 0; k < c.cols; k += 8) {
        const codes = load<u32>(source + (k >> 1))
        store<u32>(dst + (k >> 5) * blockBytes + header + (k & 24) * (OCTET >> 3) + (r << 2), spread(codes) | (spread(codes >> 16) << 4))
      }
    }
  }
  store<f32>(factor, powerOfTwo(16 - exponent))
}
