/**
 * Decodes ggml's block formats to the planes of ops.ts. Layouts from ggml-common.h and from gguf-py's dequantiser, which the tests compare with. Codes are
 * kept exactly; scales and minimums are products of an f16 and a small integer, which f32 represents exactly.
 */
import { decodeBf16, f16Table, narrowBf16 } from '../../kernels/float.ts'
import type { MatrixData } from '../../kernels/ops.ts'
import { iq1M, iq1S, iq2S, iq2Xs, iq2Xxs, iq3S, iq3Xxs } from './gguf-grid-blocks.ts'
import { u16 } from './gguf-planes.ts'
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

/** ggml's blocks of 32 pair value j with value j + 16 in a byte. Planes pair neighbours, the first one in the low nibble. */
function repackNibbles(source: Uint8Array, from: number, target: Uint8Array, to: number): void {
  for (let j = 0; j < 8; j++) {
    const a = source[from + 2 * j]!
    const b = source[from + 2 * j + 1]!
    target[to + j] = (a & 15) | ((b & 15) << 4)
    target[to + 8 + j] = (a >> 4) | (b & 0xf0)
  }
}

function q4Legacy(bytes: Uint8Array, numValues: number, hasMin: boolean): MatrixData {
  const half = f16Table()
  const { codes, scales, mins } = q4Planes(numValues)
  const header = hasMin ? 4 : 2
  for (let block = 0; block < scales.length; block++) {
    const at = block * (header + 16)
    scales[block] = half[u16(bytes, at)]!
    if (hasMin) mins[block] = half[u16(bytes, at + 2)]!
    repackNibbles(bytes, at + header, codes, block * 16)
  }
  return { format: 'q4', group: 32, codes, scales, mins: hasMin ? mins : null }
}

function q5Legacy(bytes: Uint8Array, numValues: number, hasMin: boolean): MatrixData {
  const half = f16Table()
  const { codes, scales, mins } = q8Planes(numValues, 32)
  const header = hasMin ? 4 : 2
  const offset = hasMin ? 0 : 16
  for (let block = 0; block < scales.length; block++) {
    const at = block * (header + 20)
    scales[block] = half[u16(bytes, at)]!
    if (hasMin) mins[block] = half[u16(bytes, at + 2)]!
    for (let j = 0; j < 32; j++) {
      const nibbles = bytes[at + header + 4 + (j & 15)]!
      const fifth = (bytes[at + header + (j >> 3)]! >> (j & 7)) & 1
      codes[block * 32 + j] = ((j < 16 ? nibbles & 15 : nibbles >> 4) | (fifth << 4)) - offset
    }
  }
  return { format: 'q8', group: 32, isNarrow: true, codes, scales, mins: hasMin ? mins : null }
}

function q8Legacy(bytes: Uint8Array, numValues: number): MatrixData {
  const half = f16Table()
  const { codes, scales } = q8Planes(numValues, 32)
  // Copies two codes at a time: a block is 17 words of 16 bits.
  const source = new Uint16Array(aligned(bytes), 0, bytes.length >> 1)
  const pairs = new Uint16Array(codes.buffer)
  for (let block = 0; block < scales.length; block++) {
    const from = block * 17
    scales[block] = half[source[from]!]!
    const to = block * 16
    for (let i = 0; i < 16; i++) pairs[to + i] = source[from + 1 + i]!
  }
  return { format: 'q8', group: 32, codes, scales, mins: null }
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
  const { codes } = planes
  for (let block = 0; block < numValues / 256; block++) {
    const at = block * 144
    setKScales(bytes, at, block, planes)
    for (let chunk = 0; chunk < 4; chunk++) {
      const from = at + 16 + chunk * 32
      const to = block * 128 + chunk * 32
      for (let j = 0; j < 16; j++) {
        const a = bytes[from + 2 * j]!
        const b = bytes[from + 2 * j + 1]!
        codes[to + j] = (a & 15) | ((b & 15) << 4)
        codes[to + 16 + j] = (a >> 4) | (b & 0xf0)
      }
    }
  }
  return { format: 'q4', group: 32, hasSubScales: true, ...planes }
}

function q5K(bytes: Uint8Array, numValues: number): MatrixData {
  const planes = q8Planes(numValues, 32)
  const { codes } = planes
  for (let block = 0; block < numValues / 256; block++) {
    const at = block * 176
    setKScales(bytes, at, block, planes)
    for (let i = 0; i < 256; i++) {
      const sub = i >> 5
      const nibbles = bytes[at + 48 + (sub >> 1) * 32 + (i & 31)]!
      const fifth = (bytes[at + 16 + (i & 31)]! >> sub) & 1
      codes[block * 256 + i] = ((sub & 1) === 0 ? nibbles & 15 : nibbles >> 4) | (fifth << 4)
    }
  }
  return { format: 'q8', group: 32, isNarrow: true, ...planes }
}

function q6K(bytes: Uint8Array, numValues: number): MatrixData {
  const half = f16Table()
  const { codes, scales } = q8Planes(numValues, 16)
  for (let block = 0; block < numValues / 256; block++) {
    const at = block * 210
    const d = half[u16(bytes, at + 208)]!
    for (let j = 0; j < 16; j++) scales[block * 16 + j] = d * ((bytes[at + 192 + j]! << 24) >> 24)
    for (let i = 0; i < 256; i++) {
      const side = i >> 7 // each half of 128: 64 bytes of low bits, 32 of high bits
      const quarter = (i >> 5) & 3
      const low = bytes[at + side * 64 + (quarter & 1) * 32 + (i & 31)]!
      const high = (bytes[at + 128 + side * 32 + (i & 31)]! >> (2 * quarter)) & 3
      codes[block * 256 + i] = ((quarter < 2 ? low & 15 : low >> 4) | (high << 4)) - 32
    }
  }
  return { format: 'q8', group: 16, isNarrow: true, hasSubScales: true, codes, scales, mins: null }
}

/** Q2_K, 256 values per block in sixteen groups: scale and minimum of four bits each, codes of two. */
function q2K(bytes: Uint8Array, numValues: number): MatrixData {
  const half = f16Table()
  const { codes, scales, mins } = q8Planes(numValues, 16)
  for (let block = 0; block < numValues / 256; block++) {
    const at = block * 84
    const d = half[u16(bytes, at + 80)]!
    const dmin = half[u16(bytes, at + 82)]!
    for (let j = 0; j < 16; j++) {
      scales[block * 16 + j] = d * (bytes[at + j]! & 15)
      mins[block * 16 + j] = -dmin * (bytes[at + j]! >> 4)
    }
    for (let i = 0; i < 256; i++) {
      const byte = bytes[at + 16 + (i >> 7) * 32 + (i & 31)]!
      codes[block * 256 + i] = (byte >> (2 * ((i >> 5) & 3))) & 3
    }
  }
  return { format: 'q8', group: 16, isNarrow: true, codes, scales, mins }
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
  const { codes, scales } = q8Planes(numValues, 16)
  for (let block = 0; block < numValues / 256; block++) {
    const at = block * 110
    const d = half[u16(bytes, at + 108)]!
    for (let j = 0; j < 16; j++) scales[block * 16 + j] = d * q3Scale(bytes, at + 96, j)
    for (let i = 0; i < 256; i++) {
      const low = (bytes[at + 32 + (i >> 7) * 32 + (i & 31)]! >> (2 * ((i >> 5) & 3))) & 3
      const hasBit = (bytes[at + (i & 31)]! >> (i >> 5)) & 1
      codes[block * 256 + i] = low - (hasBit === 1 ? 0 : 4)
    }
  }
  return { format: 'q8', group: 16, isNarrow: true, hasSubScales: true, codes, scales, mins: null }
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
