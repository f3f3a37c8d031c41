/**
 * Decodes ggml's block formats to the planes of ops.ts. Layouts from ggml-common.h and from gguf-py's dequantiser, which the tests compare with. Codes are
 * kept exactly; scales and minimums are products of an f16 and a small integer, which f32 represents exactly.
 */
import { decodeBf16, f16Table, narrowBf16 } from '../../kernels/float.ts'
import type { MatrixData } from '../../kernels/ops.ts'
import { iq1M, iq1S, iq2S, iq2Xs, iq2Xxs, iq3S, iq3Xxs } from './gguf-grid-blocks.ts'
import { q8Codes, u16 } from './gguf-planes.ts'
import { iq4Nl, iq4Xs, mxfp4, tq1, tq2 } from './gguf-codebooks.ts'

interface BlockFormat {
  readonly name: string
  /** Values per block. */
  readonly values: number
  /** Bytes per block. */
  readonly bytes: number
  /** May keep `bytes` as the result's memory. */
  readonly decode: (bytes: Uint8Array, numValues: number) => MatrixData
  /** The format after decoding depends on the values, so that all of them have to be read. */
  readonly dependsOnValues?: true
}

interface Planes<Codes> {
  readonly codes: Codes
  readonly scales: Float32Array
  readonly mins: Float32Array
}

const q4Planes = (numValues: number): Planes<Uint8Array> => ({
  codes: new Uint8Array(numValues / 2),
  scales: new Float32Array(numValues / 32),
  mins: new Float32Array(numValues / 32),
})

const q8Planes = (numValues: number, group: number): Planes<Int8Array> => ({
  codes: new Int8Array(numValues),
  scales: new Float32Array(numValues / group),
  mins: new Float32Array(numValues / group),
})

const NIBBLES = 0x0f0f0f0f

/** Four bits as the low bits of four bytes, by their value. */
const SPREAD_BITS = Int32Array.from(
  { length: 16 },
  (_, n) => (n & 1) | ((n & 2) << 7) | ((n & 4) << 14) | ((n & 8) << 21),
)

/** Subtracts `offsets` from four codes of at most 7 bits, byte by byte. */
const minus = (codes: number, offsets: number): number => ((codes | 0x80808080) - offsets) ^ 0x80808080

/** The nibbles in eight bytes, neighbours paired in four: the first of a pair in the low nibble. */
function pairNibbles(first: number, second: number): number {
  const a = first | (first >>> 4)
  const b = second | (second >>> 4)
  return (a & 0xff) | ((a >>> 8) & 0xff00) | ((b & 0xff) << 16) | ((b << 8) & 0xff000000)
}

/** ggml's bytes pair value j of `count` bytes with value j + count. Planes pair neighbours. */
function repackNibbles(source: DataView, from: number, count: number, target: Int32Array, to: number): void {
  for (let j = 0; j < count / 8; j++) {
    const a = source.getInt32(from + 8 * j, true)
    const b = source.getInt32(from + 8 * j + 4, true)
    target[to + j] = pairNibbles(a & NIBBLES, b & NIBBLES)
    target[to + count / 8 + j] = pairNibbles((a >>> 4) & NIBBLES, (b >>> 4) & NIBBLES)
  }
}

const viewOf = ({ buffer, byteOffset, byteLength }: Uint8Array): DataView =>
  new DataView(buffer, byteOffset, byteLength)

/** The codes, four per word. */
const wordsOf = ({ codes }: { readonly codes: Uint8Array | Int8Array }): Int32Array => new Int32Array(codes.buffer)

function q4Legacy(bytes: Uint8Array, numValues: number, hasMin: boolean): MatrixData {
  const half = f16Table()
  const planes = q4Planes(numValues)
  const { scales, mins } = planes
  const words = wordsOf(planes)
  const view = viewOf(bytes)
  const header = hasMin ? 4 : 2
  for (let block = 0; block < scales.length; block++) {
    const at = block * (header + 16)
    scales[block] = half[u16(bytes, at)]!
    if (hasMin) mins[block] = half[u16(bytes, at + 2)]!
    repackNibbles(view, at + header, 16, words, block * 4)
  }
  return { format: 'q4', group: 32, ...planes, mins: hasMin ? mins : null }
}

function q5Legacy(bytes: Uint8Array, numValues: number, hasMin: boolean): MatrixData {
  const half = f16Table()
  const planes = q8Planes(numValues, 32)
  const { scales, mins } = planes
  const words = wordsOf(planes)
  const view = viewOf(bytes)
  const header = hasMin ? 4 : 2
  const offsets = hasMin ? 0 : 0x10101010
  for (let block = 0; block < scales.length; block++) {
    const at = block * (header + 20)
    scales[block] = half[u16(bytes, at)]!
    if (hasMin) mins[block] = half[u16(bytes, at + 2)]!
    const fifth = view.getInt32(at + header, true)
    for (let k = 0; k < 4; k++) {
      const nibbles = view.getInt32(at + header + 4 + 4 * k, true)
      const low = SPREAD_BITS[(fifth >>> (4 * k)) & 15]!
      const high = SPREAD_BITS[(fifth >>> (4 * k + 16)) & 15]!
      words[block * 8 + k] = minus((nibbles & NIBBLES) | (low << 4), offsets)
      words[block * 8 + 4 + k] = minus(((nibbles >>> 4) & NIBBLES) | (high << 4), offsets)
    }
  }
  return { format: 'q8', group: 32, isNarrow: true, ...planes, mins: hasMin ? mins : null }
}

function q8Legacy(bytes: Uint8Array, numValues: number): MatrixData {
  const half = f16Table()
  const data = q8Codes(numValues, 32, false)
  const words = wordsOf(data)
  const view = viewOf(bytes)
  for (let block = 0; block < data.scales.length; block++) {
    const at = block * 34
    data.scales[block] = half[u16(bytes, at)]!
    for (let k = 0; k < 8; k++) words[block * 8 + k] = view.getInt32(at + 2 + 4 * k, true)
  }
  return data
}

/** Scale and minimum of sub-block j of a K block, 6 bits each. The upper two bits of sub-blocks 4 to 7 are in the first eight bytes. */
function scaleAndMin(bytes: Uint8Array, at: number, j: number): [scale: number, min: number] {
  if (j < 4) return [bytes[at + j]! & 63, bytes[at + j + 4]! & 63]
  return [
    (bytes[at + j + 4]! & 15) | ((bytes[at + j - 4]! >> 6) << 4),
    (bytes[at + j + 4]! >> 4) | ((bytes[at + j]! >> 6) << 4),
  ]
}

function setKScales(bytes: Uint8Array, at: number, block: number, { scales, mins }: Planes<unknown>): void {
  const half = f16Table()
  const d = half[u16(bytes, at)]!
  const dmin = half[u16(bytes, at + 2)]!
  for (let j = 0; j < 8; j++) {
    const [scale, min] = scaleAndMin(bytes, at + 4, j)
    scales[block * 8 + j] = d * scale
    mins[block * 8 + j] = -dmin * min
  }
}

/** Q4_K, 256 values per block. Of each 32 bytes, the low nibbles hold one sub-block and the high nibbles the next. */
function q4K(bytes: Uint8Array, numValues: number): MatrixData {
  const planes = q4Planes(numValues)
  const words = wordsOf(planes)
  const view = viewOf(bytes)
  for (let block = 0; block < numValues / 256; block++) {
    const at = block * 144
    setKScales(bytes, at, block, planes)
    for (let chunk = 0; chunk < 4; chunk++) repackNibbles(view, at + 16 + chunk * 32, 32, words, block * 32 + chunk * 8)
  }
  return { format: 'q4', group: 32, hasSubScales: true, ...planes }
}

function q5K(bytes: Uint8Array, numValues: number): MatrixData {
  const planes = q8Planes(numValues, 32)
  const words = wordsOf(planes)
  const view = viewOf(bytes)
  for (let block = 0; block < numValues / 256; block++) {
    const at = block * 176
    setKScales(bytes, at, block, planes)
    for (let i = 0; i < 64; i++) {
      const sub = i >> 3
      const place = 4 * (i & 7)
      const nibbles = view.getInt32(at + 48 + (sub >> 1) * 32 + place, true) >>> (4 * (sub & 1))
      const fifth = (view.getInt32(at + 16 + place, true) >>> sub) & 0x01010101
      words[block * 64 + i] = (nibbles & NIBBLES) | (fifth << 4)
    }
  }
  return { format: 'q8', group: 32, isNarrow: true, ...planes }
}

function q6K(bytes: Uint8Array, numValues: number): MatrixData {
  const half = f16Table()
  const data = q8Codes(numValues, 16, true)
  const words = wordsOf(data)
  const view = viewOf(bytes)
  for (let block = 0; block < numValues / 256; block++) {
    const at = block * 210
    const d = half[u16(bytes, at + 208)]!
    for (let j = 0; j < 16; j++) data.scales[block * 16 + j] = d * view.getInt8(at + 192 + j)
    for (let i = 0; i < 64; i++) {
      const side = i >> 5 // each half of 128: 64 bytes of low bits, 32 of high bits
      const quarter = (i >> 3) & 3
      const place = 4 * (i & 7)
      const low = view.getInt32(at + side * 64 + (quarter & 1) * 32 + place, true) >>> (quarter < 2 ? 0 : 4)
      const high = (view.getInt32(at + 128 + side * 32 + place, true) >>> (2 * quarter)) & 0x03030303
      words[block * 64 + i] = minus((low & NIBBLES) | (high << 4), 0x20202020)
    }
  }
  return { ...data, hasSubScales: true }
}

/** Four codes of two bits, those at 4 i to 4 i + 3 of a block of Q2_K or Q3_K whose 64 bytes of codes begin at `from`. */
const twoBits = (view: DataView, from: number, i: number): number =>
  (view.getInt32(from + (i >> 5) * 32 + 4 * (i & 7), true) >>> (2 * ((i >> 3) & 3))) & 0x03030303

/** Q2_K, 256 values per block in sixteen groups: scale and minimum of four bits each, codes of two. */
function q2K(bytes: Uint8Array, numValues: number): MatrixData {
  const half = f16Table()
  const planes = q8Planes(numValues, 16)
  const { scales, mins } = planes
  const words = wordsOf(planes)
  const view = viewOf(bytes)
  for (let block = 0; block < numValues / 256; block++) {
    const at = block * 84
    const d = half[u16(bytes, at + 80)]!
    const dmin = half[u16(bytes, at + 82)]!
    for (let j = 0; j < 16; j++) {
      scales[block * 16 + j] = d * (bytes[at + j]! & 15)
      mins[block * 16 + j] = -dmin * (bytes[at + j]! >> 4)
    }
    for (let i = 0; i < 64; i++) words[block * 64 + i] = twoBits(view, at + 16, i)
  }
  return { format: 'q8', group: 16, isNarrow: true, ...planes }
}

/** Scale j of the sixteen of a Q3_K block: the low four bits are in the first eight bytes, the upper two in the last four. */
function q3Scale(bytes: Uint8Array, at: number, j: number): number {
  const low = (bytes[at + (j & 7)]! >> (j < 8 ? 0 : 4)) & 15
  const high = (bytes[at + 8 + (j & 3)]! >> (2 * (j >> 2))) & 3
  return (low | (high << 4)) - 32
}

/** Q3_K, 256 values per block in sixteen groups: codes of two bits, minus 4 where the mask's bit is 0. */
function q3K(bytes: Uint8Array, numValues: number): MatrixData {
  const half = f16Table()
  const data = q8Codes(numValues, 16, true)
  const words = wordsOf(data)
  const view = viewOf(bytes)
  for (let block = 0; block < numValues / 256; block++) {
    const at = block * 110
    const d = half[u16(bytes, at + 108)]!
    for (let j = 0; j < 16; j++) data.scales[block * 16 + j] = d * q3Scale(bytes, at + 96, j)
    for (let i = 0; i < 64; i++) {
      const bits = (view.getInt32(at + 4 * (i & 7), true) >>> (i >> 3)) & 0x01010101
      words[block * 64 + i] = minus(twoBits(view, at + 32, i) | (bits << 2), 0x04040404)
    }
  }
  return { ...data, hasSubScales: true }
}

/** A buffer that starts with the bytes, for views that need an aligned start: their own buffer, or a copy. */
const aligned = (bytes: Uint8Array): ArrayBufferLike =>
  bytes.byteOffset === 0 && bytes.byteLength === bytes.buffer.byteLength ? bytes.buffer : bytes.slice().buffer

function bf16(bytes: Uint8Array): MatrixData {
  const words = new Uint16Array(aligned(bytes))
  return narrowBf16(words) ? { format: 'f16', values: words } : { format: 'f32', values: decodeBf16(words) }
}

/** The formats by ggml's type number. */
export const BLOCK_FORMATS: ReadonlyMap<number, BlockFormat> = new Map([
  [
    0,
    {
      name: 'F32',
      values: 1,
      bytes: 4,
      decode: (bytes: Uint8Array) => ({ format: 'f32', values: new Float32Array(aligned(bytes)) }) as const,
    },
  ],
  [
    1,
    {
      name: 'F16',
      values: 1,
      bytes: 2,
      decode: (bytes: Uint8Array) => ({ format: 'f16', values: new Uint16Array(aligned(bytes)) }) as const,
    },
  ],
  [2, { name: 'Q4_0', values: 32, bytes: 18, decode: (bytes: Uint8Array, n: number) => q4Legacy(bytes, n, false) }],
  [3, { name: 'Q4_1', values: 32, bytes: 20, decode: (bytes: Uint8Array, n: number) => q4Legacy(bytes, n, true) }],
  [6, { name: 'Q5_0', values: 32, bytes: 22, decode: (bytes: Uint8Array, n: number) => q5Legacy(bytes, n, false) }],
  [7, { name: 'Q5_1', values: 32, bytes: 24, decode: (bytes: Uint8Array, n: number) => q5Legacy(bytes, n, true) }],
  [8, { name: 'Q8_0', values: 32, bytes: 34, decode: q8Legacy }],
  [10, { name: 'Q2_K', values: 256, bytes: 84, decode: q2K }],
  [11, { name: 'Q3_K', values: 256, bytes: 110, decode: q3K }],
  [12, { name: 'Q4_K', values: 256, bytes: 144, decode: q4K }],
  [13, { name: 'Q5_K', values: 256, bytes: 176, decode: q5K }],
  [14, { name: 'Q6_K', values: 256, bytes: 210, decode: q6K }],
  [16, { name: 'IQ2_XXS', values: 256, bytes: 66, decode: iq2Xxs }],
  [17, { name: 'IQ2_XS', values: 256, bytes: 74, decode: iq2Xs }],
  [18, { name: 'IQ3_XXS', values: 256, bytes: 98, decode: iq3Xxs }],
  [19, { name: 'IQ1_S', values: 256, bytes: 50, decode: iq1S }],
  [20, { name: 'IQ4_NL', values: 32, bytes: 18, decode: iq4Nl }],
  [21, { name: 'IQ3_S', values: 256, bytes: 110, decode: iq3S }],
  [22, { name: 'IQ2_S', values: 256, bytes: 82, decode: iq2S }],
  [23, { name: 'IQ4_XS', values: 256, bytes: 136, decode: iq4Xs }],
  [29, { name: 'IQ1_M', values: 256, bytes: 56, decode: iq1M }],
  [30, { name: 'BF16', values: 1, bytes: 2, decode: bf16, dependsOnValues: true }],
  [34, { name: 'TQ1_0', values: 256, bytes: 54, decode: tq1 }],
  [35, { name: 'TQ2_0', values: 256, bytes: 66, decode: tq2 }],
  [39, { name: 'MXFP4', values: 32, bytes: 17, decode: mxfp4 }],
])

/** Names of types that are not served, for the error message. */
const OTHER_TYPES: Readonly<Record<number, string>> = {
  9: 'Q8_1',
  15: 'Q8_K',
  28: 'F64',
  40: 'NVFP4',
}

/** Name of a GGUF tensor type, such as Q4_K; "number N" for an unknown one. */
export function blockTypeName(type: number): string {
  return BLOCK_FORMATS.get(type)?.name ?? OTHER_TYPES[type] ?? `number ${type}`
}
