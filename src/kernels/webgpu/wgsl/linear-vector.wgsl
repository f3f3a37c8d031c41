// out = x W^T for 1 to 8 rows (GEMV), fused like linear-broadcast.wgsl: for GPUs, and for every adapter without subgroups of a known size.
//
//   x, codes, scales, out   as in linear-broadcast.wgsl
//   launch   x = packed output rows / (32 R), y = rows / TM; workgroup = 32 lanes (output rows) x YS segments of K
//
// Lane = output row, so that 32 neighbouring lanes read 512 contiguous bytes of weights and nothing is shuffled. K is cut into YS segments
// that run side by side; their sums are added in order at the end. Few output rows still fill the machine, and linear-matrix.wgsl adds the
// very same segments in the very same order, one after another.
#include "linear-io.wgsl"
#include "linear-tree.wgsl"

var<workgroup> partials: array<f32, $(YS * TM * R * 32)>;

fn sum_of(m: u32, column: u32) -> f32 {
  let at = m * $(R * 32)u + column;
  var sum = partials[at];
  for (var segment = 1u; segment < $(YS)u; segment++) {
    sum += partials[segment * $(TM * R * 32)u + at];
  }
#if NORM
  return sum * params.weight_scale * inverse_rms[m];
#else
  return sum * params.weight_scale;
#endif
}

@compute @workgroup_size(32, $(YS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let num_rows = rows_of_call();
  let first_row = group.y * $(TM)u;
  if (first_row >= num_rows) {
    return;
  }
  let index = local.y * 32u + local.x;
  let packed = group.x * $(32 * R)u + local.x;
#if NORM
  compute_norms(first_row, num_rows, index);
#endif
#include "linear-scales.wgsl"
#repeat m TM
  let x_at$(m) = source_row(first_row + $(m)u, num_rows) * (params.x_stride >> 2u);
#repeat i R
  var acc$(m)_$(i) = 0.0;
#end
#end
  let segment_blocks = (params.num_blocks + $(YS - 1)u) / $(YS)u;
  let first_block = local.y * segment_blocks;
  let end_block = min(first_block + segment_blocks, params.num_blocks);
  var b = (packed / TILE) * tile_units + packed % TILE + first_block * $(FORMAT * 8)u;
  // `block` counts steps; in the quantised formats a step is a block.
  for (var block = first_block * $(32 / STEP_COLS)u; block < end_block * $(32 / STEP_COLS)u; block++) {
#repeat q STEP_COLS / 4
#if NORM
    let weight$(q) = norm_weight[block * $(STEP_COLS / 4)u + $(q)u];
#endif
#repeat m TM
#if NORM
    let xq$(m)_$(q) = x[x_at$(m) + block * $(STEP_COLS / 4)u + $(q)u] * weight$(q);
#else
    let xq$(m)_$(q) = x[x_at$(m) + block * $(STEP_COLS / 4)u + $(q)u];
#endif
#repeat c 4
    let x$(m)_$(4 * q + c) = xq$(m)_$(q)[$(c)];
#end
#end
#end
#include "linear-xsum.wgsl"
#include "linear-block.wgsl"
    b += $(STEP_UNITS * 32)u;
  }
#repeat m TM
#repeat i R
  partials[(local.y * $(TM)u + $(m)u) * $(R * 32)u + $(i * 32)u + local.x] = acc$(m)_$(i);
#end
#end
  workgroupBarrier();
  // Gate and up rows of a gated matrix alternate in runs of 32 packed rows.
  let run = select(1u, 2u, is_gated());
  let columns = $(R * 32)u / run;
  for (var item = index; item < $(TM)u * columns; item += $(32 * YS)u) {
    let m = item / columns;
    let column = item % columns;
    let n = group.x * columns + column;
    if (first_row + m < num_rows && n < params.num_outputs) {
      let at = column / 32u * 32u * run + column % 32u;
      store(first_row + m, n, sum_of(m, at), sum_of(m, min(at + 32u, $(R * 32 - 1)u)));
    }
  }
}
