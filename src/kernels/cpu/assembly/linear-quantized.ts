// Rows of int8 activations against a panel of quantised weights: which kernel takes them.
import { dot1x16Q4, dot4x16Q4, expandCodes, spreadNibbles } from './linear-q4'
import { dot1x16Q8, dot2x16Q8, dot4x16Q8 } from './linear-q8'
import { BLOCK_BYTES, QUAD_BYTES } from './prepare'
import { headerBytes } from './quantized-panel'

/**
 * acc[rows][16] = prepared rows against a q8 panel or a q4 one (`wide` false). The rows, `rowBytes` each, lie in quads or one after another
 * (prepare.ts). `temporary`: 512 bytes per block.
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
  const stride = inQuads ? QUAD_BYTES : BLOCK_BYTES
  const rowStride = inQuads ? BLOCK_BYTES : rowBytes
  let headerStride = header + (wide ? 512 : 256)
  let codes = panel + header
  let codeStride = headerStride
  let r = 0
  if (!wide) {
    if (ASC_FEATURE_RELAXED_SIMD) {
      if (rows >= 4) spreadNibbles(panel, blocks, flags, temporary)
      for (; r + 4 <= rows; r += 4) {
        dot4x16Q4(x + <usize>r * rowBytes, panel, temporary, blocks, flags, acc + <usize>r * 64)
      }
      const rest = x + <usize>r * rowBytes
      for (let i = 0; r + i < rows; i++) {
        dot1x16Q4(rest + <usize>i * rowStride, stride, panel, blocks, flags, acc + <usize>(r + i) * 64)
      }
      return
    }
    if (rows == 1) {
      dot1x16Q4(x, stride, panel, blocks, flags, acc)
      return
    }
    expandCodes(panel, blocks, flags, temporary)
    codes = temporary
    codeStride = 512
  }
  for (; r + 4 <= rows; r += 4) {
    dot4x16Q8(x + <usize>r * rowBytes, panel, headerStride, codes, codeStride, blocks, flags, acc + <usize>r * 64)
  }
  let rest = x + <usize>r * rowBytes
  if (r + 2 <= rows) {
    dot2x16Q8(rest, rowStride, stride, panel, headerStride, codes, codeStride, blocks, flags, acc + <usize>r * 64)
    r += 2
    rest += 2 * rowStride
  }
  if (r < rows) dot1x16Q8(rest, stride, panel, headerStride, codes, codeStride, blocks, flags, acc + <usize>r * 64)
}
