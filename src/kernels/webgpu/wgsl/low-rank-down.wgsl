// between = down norm(x): the product with the first factor of each row's adapter (LoRA, https://arxiv.org/abs/2106.09685). The norm's 1 / rms
// multiplies the finished sums, so that one pass over x computes it too.
//
//   launch   x = blocks of RANKS ranks, y = rows; workgroup = WS threads. Thread t sums columns t, t + WS, ...; the threads' sums are added pairwise.
#include "low-rank.wgsl"

@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read> weight: array<f32>;
@group(0) @binding(6) var<storage, read_write> between: array<f32>;

var<workgroup> sums: array<f32, $((RANKS + 1) * WS)>;

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = group.y;
  let adapter = adapter_of(row);
  if (adapter < 0) {
    return;
  }
  let place = u32(adapter) * params.table_stride;
  let rank = table[place];
  let first = group.x * $(RANKS)u;
  if (first >= rank) {
    return;
  }
  let down = table[place + 1u];
  let base = row * params.x_stride;
#repeat i RANKS
  var sum_$(i) = 0.0;
  // Ranks past the last repeat the last rank and are not stored.
  let at_$(i) = down + min(first + $(i)u, rank - 1u) * params.cols;
#end
  var squares = 0.0;
  for (var col = lane; col < params.cols; col += $(WS)u) {
#if NORM
    let raw = x[base + col];
    squares = fma(raw, raw, squares);
    let value = raw * weight[col];
#else
    let value = x[base + col];
#endif
#repeat i RANKS
    sum_$(i) = fma(value, values[at_$(i) + col], sum_$(i));
#end
  }
#repeat i RANKS
  sums[$(i * WS)u + lane] = sum_$(i);
#end
  sums[$(RANKS * WS)u + lane] = squares;
  workgroupBarrier();
  for (var half = $(WS / 2)u; half > 0u; half >>= 1u) {
    if (lane < half) {
#repeat i RANKS
      sums[$(i * WS)u + lane] += sums[$(i * WS)u + lane + half];
#end
      sums[$(RANKS * WS)u + lane] += sums[$(RANKS * WS)u + lane + half];
    }
    workgroupBarrier();
  }
  if (lane < $(RANKS)u && first + lane < rank) {
#if NORM
    let factor = 1.0 / sqrt(sums[$(RANKS * WS)u] * params.inverse_cols + params.eps);
#else
    let factor = 1.0;
#endif
    between[row * params.between_stride + first + lane] = sums[lane * $(WS)u] * factor;
  }
}
