// Rows of int8 activations against a panel of quantised weights: which kernel takes them.
import { dotNarrow } from './linear-narrow'
import { dotQ4, spreadNibbles } from './linear-q4'
import { dotFull } from './linear-q8'
import { dotSuper } from './linear-super'
import { BYTE_BLOCK_BYTES, WORD_BLOCK_BYTES } from './prepare'
import { headerBytes, MINS, NARROW, NARROW_OFFSET, Q4_OFFSET, SUPER } from './quantized-panel'
import { spreadSuper } from './super-panel'

/**
 * acc[rows][16] = prepared rows against a q8 panel or a q4 one (`wide` false). The rows, `rowBytes` each, lie in quads or one after another
 * (prepare.ts). `temporary`: SPREAD_BYTES per block.
 */
export function multiplyQuantizedPanel(
  x: usize,
  rowBytes: usize,
  rows: i32,
  inQuads: bool,
  panel: usize,
  wide: bool,
  flags: i32,
  blocks: usize,
  acc: usize,
  temporary: usize,
): void {
  const header = headerBytes(flags)
  const isFull = wide && (flags & NARROW) == 0
  const blockBytes: usize = isFull ? WORD_BLOCK_BYTES : BYTE_BLOCK_BYTES
  const stride: usize = inQuads ? blockBytes << 2 : blockBytes
  const rowStride = inQuads ? blockBytes : rowBytes
  // Plain SIMD has no products of nibbles.
  const isSuper = (flags & SUPER) != 0
  const isSpread = (isSuper || !wide) && (!ASC_FEATURE_RELAXED_SIMD || rows >= (wide ? 2 : 4))
  if (isSpread) {
    if (isSuper) spreadSuper(panel, blocks, flags, wide, temporary)
    else spreadNibbles(panel, blocks, flags, temporary)
  }
  const headerStride = header + (wide ? 512 : 256)
  const codes = isSpread ? temporary : panel + header
  const codeStride = isSpread ? <usize>512 : headerStride
  const offset = (flags & MINS) != 0 ? 0 : wide ? NARROW_OFFSET : Q4_OFFSET
  for (let r = 0; r < rows; r += 4) {
    const count = min(4, rows - r)
    const from = x + <usize>r * rowBytes
    const to = acc + <usize>r * 64
    if (isFull) {
      dotFull(from, rowStride, stride, count, panel, blocks, flags, to)
      continue
    }
    if (ASC_FEATURE_RELAXED_SIMD) {
      if (!wide) {
        dotQ4(from, rowStride, stride, count, panel, codes, blocks, flags, to)
        continue
      }
    }
    if (isSuper) dotSuper(from, rowStride, stride, count, panel, isSpread ? temporary : 0, blocks, flags, to)
    else dotNarrow(from, rowStride, stride, count, panel, headerStride, codes, codeStride, blocks, flags, offset, to)
  }
}
