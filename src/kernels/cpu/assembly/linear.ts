// The linear op: prepared inputs, units of one weight panel (or gate and up panel) by up to ROW_TILE rows, epilogue. Rows that go to one of
// several matrices (experts) are given as tiles, each of one matrix's rows.
import { multiplyPanel } from './linear-float'
import { multiplyQuantizedPanel } from './linear-quantized'
import { barrier, scratch, takeUnits } from './pool'
import { blockBytesOf, BYTES, PLAIN, preparedBytes, prepareRow, SCALED, WORDS } from './prepare'
import { NARROW } from './quantized-panel'
import { gelu, geluTanh, relu2, silu, siluClamped, tanh, xielu } from './simd'

/** Rows of a unit of work: its sums, [128][16] f32, stay in the level-1 cache. */
export const ROW_TILE: i32 = 128
/** Up to this many rows every thread prepares for itself: cheaper than a barrier. */
const OWN_ROWS: i32 = 2

export const SILU: i32 = 1
export const GELU: i32 = 2
export const RESIDUAL: i32 = 4
export const GELU_EXACT: i32 = 8
/** The matrix has gate and up panels in turn. */
export const GATED: i32 = 16
export const CLAMPED: i32 = 32
export const RELU2: i32 = 64
export const XIELU: i32 = 128
const ACTIVATED: i32 = SILU | GELU | GELU_EXACT | RELU2 | XIELU

// Tiles of rows, made by experts.ts: i32 count, i32 end of the last tile, then from TILES_HEADER on TILE_BYTES each: expert, first row, rows.
// Tiles begin at multiples of 4, so that quads of prepared rows are of one tile.
export const TILES_HEADER: usize = 16
export const TILE_BYTES: usize = 16

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
  tiles: usize // 0: all rows go through the one matrix
  gathers: i32 // with tiles: rows of x are taken by rowIndex, whose -1 are no rows in either case
  biasStride: usize // bytes of an expert's bias
  alphaP: f32 // xIELU's
  alphaN: f32
  xieluBeta: f32
  chunk: i32 // units taken at a time
  counter: i32
  prepareCounter: i32
}

// @ts-ignore: decorator
@inline
function inQuads(c: LinearCommand): bool {
  return c.tiles != 0 || c.rows >= 4
}

/** The form of the inputs that the weights want. */
function formOf(c: LinearCommand): i32 {
  if (c.format <= F16) return c.format == F32 ? PLAIN : SCALED
  return c.format == Q8 && (c.flags & NARROW) == 0 ? WORDS : BYTES
}

/** Prepares row `row` of the step into its place among the rows that begin at `x`, `bytes` each. */
function prepare(c: LinearCommand, form: i32, row: i32, x: usize, bytes: usize, temporary: usize): void {
  const quads = form >= BYTES && inQuads(c)
  const blockBytes: usize = blockBytesOf(form)
  const dst = quads ? x + bytes * (row & ~3) + blockBytes * (row & 3) : x + bytes * row
  let source = c.rowIndex == 0 ? row : load<i32>(c.rowIndex + (<usize>row << 2))
  if (c.tiles != 0) {
    if (source < 0) return
    if (!c.gathers) source = row
  }
  const blockStride: usize = quads ? blockBytes << 2 : blockBytes
  prepareRow(form, c.x + <usize>source * c.xStride, c.cols, c.padded, c.normWeight, c.eps, dst, blockStride, temporary)
}

export function linear(c: LinearCommand): void {
  const form = formOf(c)
  const bytes = preparedBytes(form, c.padded)
  const rows = c.tiles == 0 ? c.rows : load<i32>(c.tiles, 4)
  let x = c.prepared
  let temporary = scratch
  if (rows <= OWN_ROWS && c.tiles == 0) {
    x = scratch
    temporary = scratch + bytes * rows
    for (let r = 0; r < rows; r++) prepare(c, form, r, x, bytes, temporary)
  } else {
    for (;;) {
      const row = takeUnits(changetype<usize>(c) + offsetof<LinearCommand>('prepareCounter'), 1)
      if (row >= rows) break
      prepare(c, form, row, x, bytes, temporary)
    }
    barrier()
  }
  const acc = temporary
  const gated = (c.epilogue & GATED) != 0
  temporary += <usize>ROW_TILE * (gated ? 128 : 64)
  const outPanels = gated ? c.panels >> 1 : c.panels
  const rowTiles = c.tiles == 0 ? (rows + ROW_TILE - 1) / ROW_TILE : load<i32>(c.tiles)
  const units = outPanels * rowTiles
  for (;;) {
    let unit = takeUnits(changetype<usize>(c) + offsetof<LinearCommand>('counter'), c.chunk)
    const end = min(unit + c.chunk, units)
    for (; unit < end; unit++) {
      const tile = unit / outPanels
      const panel = unit - tile * outPanels
      let expert: usize = 0
      let firstRow = tile * ROW_TILE
      let count = min(ROW_TILE, rows - firstRow)
      if (c.tiles != 0) {
        const at = c.tiles + TILES_HEADER + <usize>tile * TILE_BYTES
        expert = load<i32>(at)
        firstRow = load<i32>(at, 4)
        count = load<i32>(at, 8)
      }
      const from = x + bytes * firstRow
      const weights = c.weights + c.panelBytes * (<usize>c.panels * expert)
      const factors = c.factors + ((<usize>c.panels * expert) << 2)
      const bias: usize = c.bias == 0 ? 0 : c.bias + c.biasStride * expert
      if (gated) {
        multiply(c, weights + c.panelBytes * (2 * panel), from, bytes, count, acc, temporary)
        multiply(c, weights + c.panelBytes * (2 * panel + 1), from, bytes, count, acc + 64 * ROW_TILE, temporary)
        finishGated(c, factors, bias, panel, firstRow, count, acc)
      } else {
        multiply(c, weights + c.panelBytes * panel, from, bytes, count, acc, temporary)
        finish(c, factors, bias, panel, firstRow, count, acc)
      }
    }
    if (end >= units) break
  }
}

function multiply(c: LinearCommand, weights: usize, x: usize, xStride: usize, rows: i32, acc: usize, temporary: usize): void {
  if (c.format <= F16) {
    multiplyPanel(x, xStride, rows, weights, c.format == F16, c.padded, acc, temporary)
  } else {
    multiplyQuantizedPanel(x, xStride, rows, inQuads(c), weights, c.format == Q8, c.flags, c.padded / 32, acc, temporary)
  }
}

// @ts-ignore: decorator
@inline
export function activated(epilogue: i32, value: v128, alphaP: f32, alphaN: f32, beta: f32): v128 {
  if ((epilogue & SILU) != 0) return silu(value)
  if ((epilogue & RELU2) != 0) return relu2(value)
  if ((epilogue & XIELU) != 0) return xielu(value, alphaP, alphaN, beta)
  return (epilogue & GELU) != 0 ? geluTanh(value) : gelu(value)
}

// @ts-ignore: decorator
@inline
function activate(c: LinearCommand, value: v128): v128 {
  return activated(c.epilogue, value, c.alphaP, c.alphaN, c.xieluBeta)
}

function finish(c: LinearCommand, factors: usize, bias: usize, panel: i32, firstRow: i32, rows: i32, acc: usize): void {
  const factor = v128.load32_splat(factors + (<usize>panel << 2))
  const residual = (c.epilogue & RESIDUAL) != 0
  const isActivated = (c.epilogue & ACTIVATED) != 0
  const column = <usize>panel << 6
  for (let r = 0; r < rows; r++) {
    const out = c.out + c.outStride * (firstRow + r) + column
    const from = acc + (<usize>r << 6)
    for (let i: usize = 0; i < 64; i += 16) {
      let value = f32x4.mul(v128.load(from + i), factor)
      if (bias != 0) value = f32x4.add(value, v128.load(bias + column + i))
      if (isActivated) value = activate(c, value)
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

function finishGated(c: LinearCommand, factors: usize, bias: usize, panel: i32, firstRow: i32, rows: i32, acc: usize): void {
  const gateFactor = v128.load32_splat(factors + (<usize>panel << 3))
  const upFactor = v128.load32_splat(factors + (<usize>panel << 3), 4)
  const column = <usize>panel << 6
  for (let r = 0; r < rows; r++) {
    const out = c.out + c.outStride * (firstRow + r) + column
    const from = acc + (<usize>r << 6)
    for (let i: usize = 0; i < 64; i += 16) {
      let gate = f32x4.mul(v128.load(from + i), gateFactor)
      let up = f32x4.mul(v128.load(from + i + 64 * ROW_TILE), upFactor)
      if (bias != 0) {
        gate = f32x4.add(gate, v128.load(bias + (column << 1) + i))
        up = f32x4.add(up, v128.load(bias + (column << 1) + 64 + i))
      }
      let value: v128
      if ((c.epilogue & CLAMPED) != 0) value = siluClamped(gate, up)
      else value = f32x4.mul(activate(c, gate), up)
      if ((c.epilogue & RESIDUAL) != 0) value = f32x4.add(v128.load(out + i), value)
      v128.store(out + i, value)
    }
  }
}
