/**
 * Decodes ggml's formats with codes that index a table: sixteen values (IQ4_NL, IQ4_XS, MXFP4), or -1, 0 and 1 (TQ1_0, TQ2_0). All but MXFP4 become q8
 * exactly, with the table's values as codes. Layouts from ggml-common.h.
 */
import { f16Table } from '../../kernels/float.ts'
import type { MatrixData } from '../../kernels/ops.ts'
import { q8Codes, u16 } from './gguf-planes.ts'

/** IQ4's sixteen values. They are denser around zero, as weights are. */
const IQ4_VALUES = Int8Array.of(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

/** Looks up 32 values from 16 bytes: value j from the low nibble of byte j, value j + 16 from the high one. */
function lookUp(bytes: Uint8Array, at: number, values: Int8Array, codes: Int8Array, to: number): void {
  for (let j = 0; j < 16; j++) {
    codes[to + j] = values[bytes[at + j]! & 15]!
    codes[to + 16 + j] = values[bytes[at + j]! >> 4]!
  }
}

/** IQ4_NL blocks (32 values in 18 bytes) as q8 codes and scales. */
export function iq4Nl(bytes: Uint8Array, numValues: number): MatrixData {
  const half = f16Table()
  const data = q8Codes(numValues, 32, false)
  for (let block = 0; block < numValues / 32; block++) {
    data.scales[block] = half[u16(bytes, block * 18)]!
    lookUp(bytes, block * 18 + 2, IQ4_VALUES, data.codes, block * 32)
  }
  return data
}

/** IQ4_XS blocks: 256 values in eight groups with scales of six bits, four in a nibble and two stored apart. */
export function iq4Xs(bytes: Uint8Array, numValues: number): MatrixData {
  const half = f16Table()
  const data = q8Codes(numValues, 32, false)
  for (let block = 0; block < numValues / 256; block++) {
    const at = block * 136
    const scale = half[u16(bytes, at)]!
    const high = u16(bytes, at + 2)
    for (let group = 0; group < 8; group++) {
      const low = (bytes[at + 4 + (group >> 1)]! >> (4 * (group & 1))) & 15
      data.scales[block * 8 + group] = scale * ((low | (((high >> (2 * group)) & 3) << 4)) - 32)
      lookUp(bytes, at + 8 + group * 16, IQ4_VALUES, data.codes, block * 256 + group * 32)
    }
  }
  return data
}

/** MXFP4 blocks: an exponent, then 32 values in 16 bytes. ggml pairs value j with value j + 16 in a byte; the result pairs neighbours. */
export function mxfp4(bytes: Uint8Array, numValues: number): MatrixData {
  const codes = new Uint8Array(numValues / 2)
  const exponents = new Uint8Array(numValues / 32)
  for (let block = 0; block < exponents.length; block++) {
    const at = block * 17
    exponents[block] = bytes[at]!
    for (let j = 0; j < 16; j += 2) {
      const [even, odd] = [bytes[at + 1 + j]!, bytes[at + 2 + j]!]
      codes[block * 16 + j / 2] = (even & 15) | ((odd & 15) << 4)
      codes[block * 16 + 8 + j / 2] = (even >> 4) | (odd & 240)
    }
  }
  return { format: 'mxfp4', group: 32, codes, exponents }
}

/** Blocks of 256 values with one scale, which is their last two bytes. */
function ternary(
  bytes: Uint8Array,
  numValues: number,
  blockBytes: number,
  unpack: (at: number, codes: Int8Array) => void,
): MatrixData {
  const half = f16Table()
  const data = q8Codes(numValues, 32, true)
  for (let block = 0; block < numValues / 256; block++) {
    const at = block * blockBytes
    data.scales.fill(half[u16(bytes, at + blockBytes - 2)]!, block * 8, block * 8 + 8)
    unpack(at, data.codes.subarray(block * 256, block * 256 + 256))
  }
  return data
}

/** TQ1_0 blocks: a byte holds five ternary digits as the fraction byte / 256 in base 3. The digit is the integer part after multiplying by 3. */
export function tq1(bytes: Uint8Array, numValues: number): MatrixData {
  return ternary(bytes, numValues, 54, (at, codes) => {
    let to = 0
    const digits = (from: number, width: number, count: number): void => {
      for (let n = 0; n < count; n++) {
        for (let j = 0; j < width; j++) {
          const fraction = (bytes[at + from + j]! * 3 ** n) & 255
          codes[to++] = ((fraction * 3) >> 8) - 1
        }
      }
    }
    digits(0, 32, 5)
    digits(32, 16, 5)
    digits(48, 4, 4)
  })
}

/** TQ2_0 blocks (256 values in 66 bytes) as q8 codes of -1, 0, 1 and scales. */
export function tq2(bytes: Uint8Array, numValues: number): MatrixData {
  return ternary(bytes, numValues, 66, (at, codes) => {
    for (let i = 0; i < 256; i++) {
      const byte = bytes[at + (i >> 7) * 32 + (i & 31)]!
      codes[i] = ((byte >> (2 * ((i >> 5) & 3))) & 3) - 1
    }
  })
}
