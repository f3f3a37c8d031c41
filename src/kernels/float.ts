/** Conversions between f32 and the 16-bit float formats that weights are stored in. Node 20 has no Float16Array. */

const bits = new Uint32Array(1)
const asFloat = new Float32Array(bits.buffer)

/** The f32 value of IEEE binary16 bits, from the definition: sign, 5 exponent bits (bias 15), 10 fraction bits. */
function expandF16(half: number): number {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >> 10) & 0x1f
  const fraction = half & 0x3ff
  if (exponent === 0x1f) return fraction ? NaN : sign * Infinity
  if (exponent === 0) return sign * fraction * 2 ** -24
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

let table: Float32Array | null = null

/** All 65,536 binary16 values as f32, indexed by their bits; built on first use (256 KB). */
export function f16Table(): Float32Array {
  if (table === null) {
    table = new Float32Array(65536)
    for (let half = 0; half < 65536; half++) table[half] = expandF16(half)
  }
  return table
}

/** The bits of the binary16 value nearest to `value` (ties to even; overflow to infinity; NaN stays NaN). */
export function f32ToF16(value: number): number {
  asFloat[0] = value
  const word = bits[0]!
  const sign = (word >>> 16) & 0x8000
  const magnitude = word & 0x7fffffff
  if (magnitude > 0x7f800000) return sign | 0x7e00
  // 65520 is halfway between the largest finite half and the next step: it and everything above rounds to infinity.
  if (magnitude >= 0x477ff000) return sign | 0x7c00
  if (magnitude < 0x38800000) {
    // Subnormal half: multiples of 2^-24. The product is exact in f64; +2^52 - 2^52 rounds it to an integer, ties to even.
    const units = Math.abs(asFloat[0]!) * 2 ** 24
    return sign | (units + 2 ** 52 - 2 ** 52)
  }
  const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1)
  return sign | ((rounded - 0x38000000) >>> 13)
}

/** Widens binary16 bits to f32. */
export function decodeF16(source: Uint16Array, target = new Float32Array(source.length)): Float32Array {
  const values = f16Table()
  for (let i = 0; i < source.length; i++) target[i] = values[source[i]!]!
  return target
}

/** Widens bfloat16 bits, the upper half of an f32, to f32. */
export function decodeBf16(source: Uint16Array, target = new Float32Array(source.length)): Float32Array {
  const words = new Uint32Array(target.buffer, target.byteOffset, target.length)
  for (let i = 0; i < source.length; i++) words[i] = source[i]! << 16
  return target
}

/** Rounds f32 values to binary16 bits. */
export function encodeF16(source: Float32Array, target = new Uint16Array(source.length)): Uint16Array {
  for (let i = 0; i < source.length; i++) target[i] = f32ToF16(source[i]!)
  return target
}

/** The largest bfloat16 within binary16's range: 65280. */
const LARGEST_BF16 = 0x477f

let halvesOfBf16: Uint16Array | null = null

/**
 * Replaces bfloat16 bits with the binary16 bits of the same values, in place. Returns false and changes nothing when a value exceeds
 * binary16's range. The conversion is exact for magnitudes of 2^-14 and above; below, the error is at most 2^-25.
 */
export function narrowBf16(words: Uint16Array): boolean {
  if (words.some((word) => (word & 0x7fff) > LARGEST_BF16)) return false
  halvesOfBf16 ??= encodeF16(decodeBf16(Uint16Array.from({ length: 65536 }, (_, word) => word)))
  for (let i = 0; i < words.length; i++) words[i] = halvesOfBf16[words[i]!]!
  return true
}
