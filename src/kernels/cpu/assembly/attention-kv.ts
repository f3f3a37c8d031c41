// The input of attention: its command, and the layout of K and V in the paged pool.
//
// The pool of a layer: blocks of [kvHead][K: tile of 16 tokens][headDim][16], then [V: panel of 16 dims][tokens][16]. Values are f16 in pairs
// (simd.ts), f32, or int8 codes followed by their scales: f32 [K: tokens] [V: tokens].
import { widenPanel } from './linear-float'

/** Formats of the pool, besides f32 (0). */
export const KV_F16: i32 = 1
export const KV_Q8: i32 = 2

/** The factor that sums over f16 keys or values lack: these lack 2^112, but queries and softmax numerators carry 2^96. Powers of two are exact. */
export const HALF_SUM_FACTOR: f32 = 65536

@unmanaged
export class AttentionCommand {
  opcode: i32
  q: usize
  qStride: usize
  out: usize
  outStride: usize
  pool: usize // the layer's
  blockBytes: usize
  headBytes: usize // K and V of one head of a block
  keyBytes: usize // of them K
  blockSize: i32
  paddedBlock: i32 // rounded up to 16
  kvFormat: i32
  numKvHeads: i32
  group: i32 // query heads per KV head
  headDim: i32
  scale: f32
  window: i32 // 0: none
  softcap: f32 // 0: none
  items: usize // AttentionItem[numItems]
  numItems: i32
  positions: usize // i32[rows]
  splits: i32 // 0: each unit folds its own splits; else the splits of the longest item, computed as separate units
  partials: usize // [item][kvHead][split]: f32 [rows][paddedDim + 4]
  partialBytes: usize // of one split
  bidirectional: i32 // rows also attend to later rows
  sinks: usize // f32[heads]: extra logits in the softmax; 0: none
  bias: usize // f32[heads][2 reach + 1], or with buckets f32[2 reach + 1]: the bucket of each distance; 0: none
  reach: i32
  numBuckets: i32 // 0: bias holds values, not buckets
  relativeScores: usize // f32[rows][2][heads][numBuckets]
  counter: i32
  foldCounter: i32
}

@unmanaged
export class AttentionItem {
  firstRow: i32
  numRows: i32
  blockTable: usize // i32[]
  last: i32 // last position of the sequence's rows
}

/** Address of K and V of a KV head in a block. */
// @ts-ignore: decorator
@inline
export function blockAddress(c: AttentionCommand, item: AttentionItem, block: i32, kvHead: i32): usize {
  return c.pool + c.blockBytes * load<i32>(item.blockTable + (<usize>block << 2)) + c.headBytes * kvHead
}

/** log2 of the bytes of 16 elements. */
// @ts-ignore: decorator
@inline
export function kvShift(format: i32): usize {
  return format == KV_F16 ? 5 : format == KV_Q8 ? 4 : 6
}

/** Widens panels of 16 to f32, without f16's factor of 2^112 and without scales. */
// @ts-ignore: decorator
@inline
export function widen(source: usize, steps: usize, format: i32, dst: usize): void {
  if (format == KV_F16) widenPanel(source, steps, dst)
  else if (format == KV_Q8) widenCodes(source, steps, dst)
  else memory.copy(dst, source, steps << 6)
}

function widenCodes(source: usize, steps: usize, dst: usize): void {
  const end = source + (steps << 4)
  for (; source < end; source += 16, dst += 64) {
    const low = v128.load8x8_s(source)
    const high = v128.load8x8_s(source, 8)
    v128.store(dst, f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(low)))
    v128.store(dst, f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(low)), 16)
    v128.store(dst, f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(high)), 32)
    v128.store(dst, f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(high)), 48)
  }
}

/** Address of a block's scales of K; those of V follow. */
// @ts-ignore: decorator
@inline
export function scalesAddress(c: AttentionCommand, block: usize): usize {
  return block + c.headBytes - (<usize>c.paddedBlock << 3)
}
