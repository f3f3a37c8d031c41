// The linear op: prepared inputs, units of one weight panel (or gate and up panel) by up to ROW_TILE rows, epilogue.
import { multiplyPanel } from './linear-float'
import { multiplyQuantizedPanel } from './linear-quantized'
import { barrier, scratch, takeUnits } from './pool'
import { BLOCK_BYTES, PLAIN, preparedBytes, prepareRow, QUAD_BYTES, QUANTIZED, SCALED } from './prepare'
import { gelu, geluTanh, silu, tanh } from './simd'

/** Rows of a unit of work: its sums, [128][16] f32, stay in the level-1 cache. */
const ROW_TILE: i32 = 128
/** Up to this many rows every thread prepares for itself: cheaper than a barrier. */
const OWN_ROWS: i32 = 2

export const SILU: i32 = 1
export const GELU: i32 = 2
export const RESIDUAL: i32 = 4
export const GELU_EXACT: i32 = 8
/** The matrix has gate and up panels in turn. */
export const GATED: i32 = 16

/** Weight formats. */
const F32: i32 = 0
const F16: i32 = 1
const Q8: i32 = 2

/** Fields of the command, words; shared with program.ts. */
@unmanaged
export class LinearCommand {
  opcode: i32
  rows: i32
  x: usize
  xStride: usize
  cols: usize
  padded: usize
  normWeight: usize // 0: none
  eps: f32
  rowIndex: usize // i32[rows]: rows of x to take; 0: the first `rows`
  prepared: usize // shared space for the prepared rows
  format: i32
  flags: i32 // of quantised panels
  panels: i32
  panelBytes: usize
  weights: usize
  factors: usize // f32[panels]
  bias: usize // 0: none
  out: usize
  outStride: usize
  epilogue: i32
  softcap: f32 // 0: none
  scale: f32
  chunk: i32 // units taken at a time
  counter: i32
  prepareCounter: i32
}

/** Prepares row `row` of the step into its place among the rows that begin at `x`, `bytes` each. */
function prepare(c: LinearCommand, row: i32, x: usize, bytes: usize, temporary: usize): void {
  const form = c.format == F32 ? PLAIN : c.format == F16 ? SCALED : QUANTIZED
  const inQuads = form == QUANTIZED && c.rows >= 4
  const dst = inQuads ? x + bytes * (row & ~3) + BLOCK_BYTES * (row & 3) : x + bytes * row
  const source = c.rowIndex == 0 ? row : load<i32>(c.rowIndex + (<usize>row << 2))
  const blockStride = inQuads ? QUAD_BYTES : BLOCK_BYTES
  prepareRow(form, c.x + <usize>source * c.xStride, c.cols, c.padded, c.normWeight, c.eps, dst, blockStride, temporary)
}

export function linear(c: LinearCommand): void {
  const form = c.format == F32 ? PLAIN : c.format == F16 ? SCALED : QUANTIZED
  const bytes = preparedBytes(form, c.padded)
  const rows = c.rows
  let x = c.prepared
  let temporary = scratch
  if (rows <= OWN_ROWS) {
    x = scratch
    temporary = scratch + bytes * rows
    for (let r = 0; r < rows; r++) prepare(c, r, x, bytes, temporary)
  } else {
    for (;;) {
      const row = takeUnits(changetype<usize>(c) + offsetof<LinearCommand>('prepareCounter'), 1)
      if (row >= rows) break
      prepare(c, row, x, bytes, temporary)
    }
    barrier()
  }
  const acc = temporary
  const gated = (c.epilogue & GATED) != 0
  temporary += <usize>ROW_TILE * (gated ? 128 : 64)
  const outPanels = gated ? c.panels >> 1 : c.panels
  const rowTiles = (rows + ROW_TILE - 1) / ROW_TILE
  const units = outPanels * rowTiles
  for (;;) {
    let unit = takeUnits(changetype<usize>(c) + offsetof<LinearCommand>('counter'), c.chunk)
    const end = min(unit + c.chunk, units)
    for (; unit < end; unit++) {
      const tile = unit / outPanels
      const panel = unit - tile * outPanels
      const firstRow = tile * ROW_TILE
      const count = min(ROW_TILE, rows - firstRow)
      const from = x + bytes * firstRow
      if (gated) {
        multiply(c, 2 * panel, from, bytes, count, acc, temporary)
        multiply(c, 2 * panel + 1, from, bytes, count, acc + 64 * ROW_TILE, temporary)
        finishGated(c, panel, firstRow, count, acc)
      } else {
        multiply(c, panel, from, bytes, count, acc, temporary)
        finish(c, panel, firstRow, count, acc)
      }
    }
    if (end >= units) break
  }
}

function multiply(c: LinearCommand, panel: i32, x: usize, xStride: usize, rows: i32, acc: usize, temporary: usize): void {
  const weights = c.weights + c.panelBytes * panel
  if (c.format <= F16) {
    multiplyPanel(x, xStride, rows, weights, c.format == F16, c.padded, acc, temporary)
  } else {
    multiplyQuantizedPanel(x, xStride, rows, c.rows >= 4, weights, c.format == Q8, c.flags, c.padded / 32, acc, temporary)
  }
}

// @ts-ignore: decorator
@inline
function activate(epilogue: i32, value: v128): v128 {
  if ((epilogue & SILU) != 0) return silu(value)
  return (epilogue & GELU) != 0 ? geluTanh(value) : gelu(value)
}

function finish(c: LinearCommand, panel: i32, firstRow: i32, rows: i32, acc: usize): void {
  const factor = v128.load32_splat(c.factors + (<usize>panel << 2))
  const residual = (c.epilogue & RESIDUAL) != 0
  const activated = (c.epilogue & (SILU | GELU | GELU_EXACT)) != 0
  const column = <usize>panel << 6
  for (let r = 0; r < rows; r++) {
    const out = c.out + c.outStride * (firstRow + r) + column
    const from = acc + (<usize>r << 6)
    for (let i: usize = 0; i < 64; i += 16) {
      let value = f32x4.mul(v128.load(from + i), factor)
      if (c.bias != 0) value = f32x4.add(value, v128.load(c.bias + column + i))
      if (activated) value = activate(c.epilogue, value)
      if (c.scale != 1) value = f32x4.mul(value, f32x4.splat(c.scale))
      if (c.softcap != 0) {
        const cap = f32x4.splat(c.softcap)
        value = f32x4.mul(cap, tanh(f32x4.div(value, cap)))
      }
      if (residual) value = f32x4.add(v128.load(out + i), value)
      v128.store(out + i, value)
    }
  }
}

function finishGated(c: LinearCommand, panel: i32, firstRow: i32, rows: i32, acc: usize): void {
  const gateFactor = v128.load32_splat(c.factors + (<usize>panel << 3))
  const upFactor = v128.load32_splat(c.factors + (<usize>panel << 3), 4)
  const column = <usize>panel << 6
  for (let r = 0; r < rows; r++) {
    const out = c.out + c.outStride * (firstRow + r) + column
    const from = acc + (<usize>r << 6)
    for (let i: usize = 0; i < 64; i += 16) {
      let gate = f32x4.mul(v128.load(from + i), gateFactor)
      let up = f32x4.mul(v128.load(from + i + 64 * ROW_TILE), upFactor)
      if (c.bias != 0) {
        gate = f32x4.add(gate, v128.load(c.bias + (column << 1) + i))
        up = f32x4.add(up, v128.load(c.bias + (column << 1) + 64 + i))
      }
      let value = f32x4.mul(activate(c.epilogue, gate), up)
      if ((c.epilogue & RESIDUAL) != 0) value = f32x4.add(v128.load(out + i), value)
      v128.store(out + i, value)
    }
  }
}
