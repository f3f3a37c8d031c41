// out = x W^T for few rows (GEMV), with bias, gate or residual.
//
//   x        rows from prepare.wgsl, or the f32 rows of an activation
//   codes    [tile][unit][32 output rows] vec4<u32>; scales: see matrix.ts
//   out      f32 [rows, out_stride]
//   EXPERTS  y is a (row, expert) pair (routing.wgsl), TM is 1
//   launch   x = packed output rows / (LANES R), y = rows / TM; workgroup = LANES output rows x SEGMENTS segments of K
//
// A thread owns R packed output rows (one from each of R tiles) and one segment of K, for TM rows of x. Neighbouring lanes read neighbouring vec4s.
// Splitting K keeps a large GPU busy even when there are few output rows. The next unit of weights is read before the current one is used, so that
// every thread has two reads in flight. The sums of the segments are added in order; linear-matrix.wgsl adds the same sums in the same order.
#include "linear-io.wgsl"
#include "linear-weights.wgsl"

#if NEXT
// x: row of the first result, y: end of the rows, z: column of the first result.
var<private> first_result: vec3<u32>;

fn place_of(own: u32) -> Place {
  return place_at(first_result.x + own, first_result.z, first_result.x + own < first_result.y);
}
#endif
#if NORMED
// [segment][row]: sums of the squares of x
var<workgroup> row_squares: array<f32, $(SEGMENTS * TM)>;
#endif
// [segment][TOGETHER rows][R][lane]
var<workgroup> partials: array<f32, $(SEGMENTS * TOGETHER * R * LANES)>;

@compute @workgroup_size($(LANES), $(SEGMENTS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
#if EXPERTS
  if (!take_expert(routing[group.y])) {
    return;
  }
  let num_rows = group.y + 1u;
  let first_row = group.y;
  let first_packed = expert * params.expert_rows;
#else
  let num_rows = num_rows_of_call();
  let first_row = group.y * $(TM)u;
  if (first_row >= num_rows) {
    return;
  }
  let first_packed = 0u;
#endif
  let packed = first_packed + group.x / $(32 / LANES)u * $(32 * R)u + group.x % $(32 / LANES)u * $(LANES)u + local.x;
  let segment_blocks = (params.num_blocks + $(SEGMENTS - 1)u) / $(SEGMENTS)u;
  let first_block = local.y * segment_blocks;
  let end_block = min(first_block + segment_blocks, params.num_blocks);
  // Rows past the last repeat the last row and are not stored.
#repeat m TM
#if EXPERTS
  let x_at$(m) = first_row / params.pairs_of_row * params.x_stride;
#else
  let x_at$(m) = (params.first_row + first_row + min($(m)u, num_rows - first_row - 1u)) * params.x_stride;
#endif
#repeat i R
  var acc$(m)_$(i) = 0.0;
#end
#if NORMED
  var squares$(m) = 0.0;
#endif
#end
#repeat i R
  let codes_at$(i) = codes_of(packed + $(32 * i)u);
#end
#if FORMAT < 16
#repeat i R
  let scales_at$(i) = scales_of(packed + $(32 * i)u);
#end
  let last_block = max(end_block, 1u) - 1u;
#repeat i R
#repeat u FORMAT / 4
  var next$(i)_$(u) = codes[codes_at$(i) + (min(first_block, last_block) * $(FORMAT / 4)u + $(u)u) * TILE];
#end
#end
  for (var block = first_block; block < end_block; block++) {
#repeat i R
#if FORMAT == 4
    let low$(i) = even_codes(next$(i)_0);
    let high$(i) = odd_codes(next$(i)_0);
#else
    let low$(i) = next$(i)_0;
    let high$(i) = next$(i)_1;
#endif
    let weights$(i) = load_scales(scales_at$(i), block);
#end
#repeat i R
#repeat u FORMAT / 4
    next$(i)_$(u) = codes[codes_at$(i) + (min(block + 1u, last_block) * $(FORMAT / 4)u + $(u)u) * TILE];
#end
#end
#repeat m TM
    {
      let at = x_at$(m) + block * 3u;
      let x_low = x[at];
      let x_high = x[at + 1u];
      let activations = x[at + 2u];
#if NORMED
      squares$(m) += bitcast<f32>(activations.w);
#endif
#repeat i R
      acc$(m)_$(i) = add_block(acc$(m)_$(i), dot16(low$(i), x_low), dot16(high$(i), x_high), weights$(i), activations);
#end
    }
#end
  }
#else
  // Each iteration takes STEP units.
  let end_unit = end_block * $(FORMAT / 4)u;
  let last_unit = max(end_unit, $(STEP)u) - $(STEP)u;
#repeat i R
#repeat u STEP
  var next$(i)_$(u) = codes[codes_at$(i) + (min(first_block * $(FORMAT / 4)u, last_unit) + $(u)u) * TILE];
#end
#end
  for (var unit = first_block * $(FORMAT / 4)u; unit < end_unit; unit += $(STEP)u) {
#repeat i R
#repeat u STEP
    let unit$(i)_$(u) = next$(i)_$(u);
    next$(i)_$(u) = codes[codes_at$(i) + (min(unit + $(STEP)u, last_unit) + $(u)u) * TILE];
#end
#end
#repeat m TM
#repeat u STEP
    {
#if FORMAT == 16
      let first = x[x_at$(m) + (unit + $(u)u) * 2u];
      let second = x[x_at$(m) + (unit + $(u)u) * 2u + 1u];
#repeat i R
      acc$(m)_$(i) = add_quad(acc$(m)_$(i), first_quad(unit$(i)_$(u)), first);
      acc$(m)_$(i) = add_quad(acc$(m)_$(i), second_quad(unit$(i)_$(u)), second);
#end
#else
      let values = x[x_at$(m) + unit + $(u)u];
#repeat i R
      acc$(m)_$(i) = add_quad(acc$(m)_$(i), bitcast<vec4<f32>>(unit$(i)_$(u)), values);
#end
#endif
    }
#end
#end
  }
#endif
  // The gate and up rows of a gated matrix are in alternating tiles: i = 0 is the gate's row, i = 1 the up projection's.
  let columns = select($(R * LANES)u, $(LANES)u, is_gated());
  let index = local.y * $(LANES)u + local.x;
#if NORMED
  if (local.x == 0u) {
#repeat m TM
    row_squares[local.y * $(TM)u + $(m)u] = squares$(m);
#end
  }
#endif
#repeat t TM / TOGETHER
  workgroupBarrier();
#repeat m TOGETHER
#repeat i R
  partials[((local.y * $(TOGETHER)u + $(m)u) * $(R)u + $(i)u) * $(LANES)u + local.x] = acc$(t * TOGETHER + m)_$(i);
#end
#end
  workgroupBarrier();
  for (var item = index; item < $(TOGETHER)u * columns; item += $(LANES * SEGMENTS)u) {
    let m = item / columns;
    let column = item % columns;
    let at = m * $(R * LANES)u + column;
    var sum = partials[at];
    var up = 0.0;
    for (var segment = 1u; segment < $(SEGMENTS)u; segment++) {
      sum += partials[segment * $(TOGETHER * R * LANES)u + at];
    }
#if R > 1
    if (is_gated()) {
      up = partials[at + $(LANES)u];
      for (var segment = 1u; segment < $(SEGMENTS)u; segment++) {
        up += partials[segment * $(TOGETHER * R * LANES)u + at + $(LANES)u];
      }
    }
#endif
    let row = first_row + $(t * TOGETHER)u + m;
    // Output column n of the workgroup's column `column`. Two packed rows of a gated matrix make one column.
    let tiles = select($(R)u, 1u, is_gated());
    let n = group.x / $(32 / LANES)u * (32u * tiles) + column / $(LANES)u * 32u + group.x % $(32 / LANES)u * $(LANES)u + column % $(LANES)u;
    var factor = 1.0;
#if NORMED
    var squares = row_squares[$(t * TOGETHER)u + m];
    for (var segment = 1u; segment < $(SEGMENTS)u; segment++) {
      squares += row_squares[segment * $(TM)u + $(t * TOGETHER)u + m];
    }
    factor = norm_factor(squares);
#endif
    var result = 0.0;
    if (row < num_rows && n < params.num_outputs) {
      result = store(row, n, sum, up, factor);
    }
#if NEXT
    results[$(t * TOGETHER * 32)u + item] = result;
#endif
  }
#end
#if NEXT
  first_result = vec3<u32>(first_row, num_rows, group.x * 32u);
  quantize_results($(TM * 8)u, index, $(LANES * SEGMENTS)u);
#endif
}
