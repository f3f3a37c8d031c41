// The two products that most time goes to, for ../kernel-build.ts to measure: half a q4 panel's outputs for a quad of rows, and a panel for one row,
// from the first cache. A module of its own, because it compiles in a millisecond or two and the kernels take thirty. All values are zeros: they do
// not change what the instructions take.
import { block4x8Q4, dot1x16Q4 } from './linear-q4'
import { BYTE_BLOCK_BYTES } from './prepare'
import { OCTET, QUAD } from './quantized-panel'

const BLOCKS: usize = 16
const ROWS: usize = 1024
const PANEL_AT: usize = ROWS + BLOCKS * 4 * BYTE_BLOCK_BYTES
const CODES: usize = PANEL_AT + BLOCKS * (32 + 4 * OCTET)
const SUMS: usize = CODES + BLOCKS * 8 * QUAD

export function quadOfRows(repeats: i32): void {
  for (let i = 0; i < repeats; i++) {
    for (let b: usize = 0; b < BLOCKS; b++) {
      block4x8Q4(ROWS + b * 4 * BYTE_BLOCK_BYTES, PANEL_AT, CODES + b * 8 * QUAD, false, false, SUMS)
    }
  }
}

export function oneRow(repeats: i32): void {
  for (let i = 0; i < repeats; i++) dot1x16Q4(ROWS, BYTE_BLOCK_BYTES, PANEL_AT, BLOCKS, 0, SUMS)
}
