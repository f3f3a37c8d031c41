// Computes what log-probabilities need from a row of logits: the largest logit, the sum of exponentials, the target's rank and the most likely
// tokens. tokenLogprobs of src/kernels/sampling.ts is the definition; exponentials are f32 here. A work unit is a row.
import { takeUnits } from './pool'
import { exp, maxLanes } from './simd'

@unmanaged
export class ScoreCommand {
  opcode: i32
  rows: i32
  logits: usize
  stride: usize
  vocab: i32
  scores: usize // Score[rows]
  targets: usize // i32[rows], tokens that an earlier command drew; 0: the targets are in the scores
  counter: i32
}

/** One row's target and results; score-rows.ts writes and reads it. */
@unmanaged
class Score {
  sum: f64 // of exp(logit - largest)
  largest: f32
  target: i32
  rank: i32 // of the target, from 1
  topN: i32 // -1: the row is not scored
}

/** Bytes of a Score, including the ids of the most likely tokens, which follow its fields. */
const SCORE_BYTES: usize = 128
const TOP: usize = 24

export function score(c: ScoreCommand): void {
  for (;;) {
    const row = takeUnits(changetype<usize>(c) + offsetof<ScoreCommand>('counter'), 1)
    if (row >= c.rows) return
    const score = changetype<Score>(c.scores + SCORE_BYTES * <usize>row)
    if (score.topN < 0) continue
    if (c.targets != 0) score.target = load<i32>(c.targets + (<usize>row << 2))
    scoreRow(c.logits + c.stride * row, c.vocab, score)
  }
}

function scoreRow(logits: usize, vocab: i32, score: Score): void {
  const whole = vocab & ~3
  let maxima = f32x4.splat(-Infinity)
  for (let t = 0; t < whole; t += 4) maxima = f32x4.max(maxima, v128.load(logits + (<usize>t << 2)))
  let largest = maxLanes(maxima)
  for (let t = whole; t < vocab; t++) largest = max(largest, load<f32>(logits + (<usize>t << 2)))
  const own = load<f32>(logits + (<usize>score.target << 2))
  const larger = f32x4.splat(own)
  const center = f32x4.splat(largest)
  let low = f64x2.splat(0)
  let high = f64x2.splat(0)
  let above = i32x4.splat(0)
  for (let t = 0; t < whole; t += 4) {
    const value = v128.load(logits + (<usize>t << 2))
    const power = exp(f32x4.sub(value, center))
    low = f64x2.add(low, f64x2.promote_low_f32x4(power))
    high = f64x2.add(high, f64x2.promote_low_f32x4(i8x16.shuffle(power, power, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)))
    above = i32x4.sub(above, f32x4.gt(value, larger))
  }
  const both = f64x2.add(low, high)
  let sum = f64x2.extract_lane(both, 0) + f64x2.extract_lane(both, 1)
  let rank =
    1 +
    i32x4.extract_lane(above, 0) +
    i32x4.extract_lane(above, 1) +
    i32x4.extract_lane(above, 2) +
    i32x4.extract_lane(above, 3)
  for (let t = whole; t < vocab; t++) {
    const value = load<f32>(logits + (<usize>t << 2))
    sum += <f64>f32x4.extract_lane(exp(f32x4.splat(value - largest)), 0)
    if (value > own) rank++
  }
  score.sum = sum
  score.largest = largest
  score.rank = rank
  if (score.topN > 0) likeliest(logits, vocab, changetype<usize>(score) + TOP, score.topN)
}

/** Writes the ids of the topN largest logits, largest first; ties lowest id first. */
function likeliest(logits: usize, vocab: i32, top: usize, topN: i32): void {
  let count = 0
  let least: f32 = -Infinity
  for (let t = 0; t < vocab; t += 4) {
    const end = min(t + 4, vocab)
    // Nearly always, all four logits are below the smallest one found so far.
    if (count == topN && end - t == 4) {
      if (!v128.any_true(f32x4.gt(v128.load(logits + (<usize>t << 2)), f32x4.splat(least)))) continue
    }
    for (let token = t; token < end; token++) {
      const value = load<f32>(logits + (<usize>token << 2))
      if (count == topN && value <= least) continue
      let at = count == topN ? topN - 1 : count++
      while (at > 0) {
        const other = load<i32>(top + (<usize>(at - 1) << 2))
        if (load<f32>(logits + (<usize>other << 2)) >= value) break
        store<i32>(top + (<usize>at << 2), other)
        at--
      }
      store<i32>(top + (<usize>at << 2), token)
      least = load<f32>(logits + (<usize>load<i32>(top + (<usize>(count - 1) << 2)) << 2))
    }
  }
}
