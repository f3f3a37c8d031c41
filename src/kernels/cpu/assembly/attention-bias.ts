// Attention biases by the distance between a row and a token, and the products of disentangled attention (arXiv 2006.03654).
import { AttentionCommand, AttentionItem, HALF_SUM_FACTOR, KV_F16 } from './attention-kv'
import { dotRows } from './linear-float'
import { takeUnits } from './pool'

/** Rows per work unit of headProducts. */
const ROWS: i32 = 16

// @ts-ignore: decorator
@inline
function biasAt(values: usize, reach: i32, distance: i32): f32 {
  return load<f32>(values + (<usize>(max(-reach, min(reach, distance)) + reach) << 2))
}

/** Adds the bias to the scores of one row and query head, for the tokens from `first` on. */
export function addBias(c: AttentionCommand, item: AttentionItem, head: i32, row: i32, first: i32, tokens: i32, scores: usize): void {
  const own = load<i32>(c.positions + (<usize>(item.firstRow + row) << 2))
  // Scores of f16 keys still lack a factor, so the bias is divided by it.
  const factor: f32 = c.kvFormat == KV_F16 ? 1 / HALF_SUM_FACTOR : 1
  const reach = c.reach
  if (c.numBuckets != 0) {
    addDisentangled(c, item.firstRow + row, own, head, first, tokens, scores, factor)
    return
  }
  const values = c.bias + (<usize>(head * (2 * reach + 1)) << 2)
  const factors = f32x4.splat(factor)
  for (let t = 0; t < tokens; ) {
    const distance = first + t - own
    const at = scores + (<usize>t << 2)
    if (t + 4 <= tokens && distance >= -reach && distance + 3 <= reach) {
      v128.store(at, f32x4.add(v128.load(at), f32x4.mul(v128.load(values + (<usize>(distance + reach) << 2)), factors)))
      t += 4
    } else {
      store<f32>(at, load<f32>(at) + biasAt(values, reach, distance) * factor)
      t++
    }
  }
}

function addDisentangled(c: AttentionCommand, row: i32, own: i32, head: i32, first: i32, tokens: i32, scores: usize, factor: f32): void {
  const width = <usize>(c.numKvHeads * c.group * c.numBuckets) << 2
  const place = <usize>(head * c.numBuckets) << 2
  const ofRow = c.relativeScores + <usize>row * 2 * width + place
  // The step has whole sequences, so the distance between rows equals the distance between positions.
  let ofToken = c.relativeScores + (<usize>(row + first - own) * 2 + 1) * width + place
  for (let t = 0; t < tokens; t++, ofToken += 2 * width) {
    const bucket = <usize>biasAt(c.bias, c.reach, first + t - own) << 2
    const at = scores + (<usize>t << 2)
    store<f32>(at, load<f32>(at) + (load<f32>(ofRow + bucket) + load<f32>(ofToken + bucket)) * factor)
  }
}

@unmanaged
export class HeadProductsCommand {
  opcode: i32
  rows: i32
  x: usize
  xStride: usize
  headBytes: usize
  table: usize // f32[heads][panels][depth][16]
  tableBytes: usize // per head
  panels: i32
  depth: usize
  out: usize
  outStride: usize
  heads: i32
  counter: i32
}

/** out[row][head][panels * 16] = x[row][head][depth] times the head's panels. A work unit is a run of rows and one head. */
export function headProducts(c: HeadProductsCommand): void {
  const runs = (c.rows + ROWS - 1) / ROWS
  const panelBytes = c.depth << 6
  for (;;) {
    const unit = takeUnits(changetype<usize>(c) + offsetof<HeadProductsCommand>('counter'), 1)
    if (unit >= runs * c.heads) return
    const head = unit / runs
    const first = (unit - head * runs) * ROWS
    const x = c.x + c.xStride * first + c.headBytes * head
    const out = c.out + c.outStride * first + (<usize>(head * c.panels) << 6)
    const table = c.table + c.tableBytes * head
    for (let p = 0; p < c.panels; p++) {
      dotRows(x, c.xStride, min(ROWS, c.rows - first), table + panelBytes * p, c.depth, out + (<usize>p << 6), c.outStride, true)
    }
  }
}
