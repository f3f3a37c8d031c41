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

@compute @workgroup_size(32, $(YS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let num_rows = rows_of_chunk();
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
#if FORMAT < 16
  var group$(m)_$(i) = 0.0;
#endif
#end
#end
  let segment_blocks = (params.num_blocks + $(YS - 1)u) / $(YS)u;
  let first_block = local.y * segment_blocks;
  let end_block = min(first_block + segment_blocks, params.num_blocks);
  var b = (packed / TILE) * tile_units + packed % TILE + first_block * $(UNITS * 32)u;
  for (var block = first_block; block < end_block; block++) {
#if FORMAT == 4 || (FORMAT == 8 && MINS)
#repeat m TM
#repeat h 32 / GROUP
    var xsum$(m)_$(h) = 0.0;
#repeat q GROUP / 4
#if NORM
    xsum$(m)_$(h) += sum4(x[x_at$(m) + block * 8u + $(h * GROUP / 4 + q)u] * norm_weight[block * 8u + $(h * GROUP / 4 + q)u]);
#else
    xsum$(m)_$(h) += sum4(x[x_at$(m) + block * 8u + $(h * GROUP / 4 + q)u]);
#endif
#end
#end
#end
#endif
#include "linear-block.wgsl"
    b += $(UNITS * 32)u;
  }
#repeat m TM
#repeat i R
  partials[(local.y * $(TM)u + $(m)u) * $(R * 32)u + $(i * 32)u + local.x] = acc$(m)_$(i);
#end
#end
  workgroupBarrier();
#if GLU > 0
  for (var item = index; item < $(TM * R / 2 * 32)u; item += $(32 * YS)u) {
    let m = item / $(R / 2 * 32)u;
    let rest = item % $(R / 2 * 32)u;
    let pair = rest / 32u;
    let lane = rest % 32u;
    var gate = partials[m * $(R * 32)u + pair * 64u + lane];
    var up = partials[m * $(R * 32)u + pair * 64u + 32u + lane];
    for (var segment = 1u; segment < $(YS)u; segment++) {
      let at = (segment * $(TM)u + m) * $(R * 32)u + pair * 64u + lane;
      gate += partials[at];
      up += partials[at + 32u];
    }
    var factor = params.weight_scale;
#if NORM
    factor *= inverse_rms[m];
#endif
    let row = first_row + m;
    let n = group.x * $(R / 2 * 32)u + pair * 32u + lane;
    if (row < num_rows && n < params.num_outputs) {
      gate *= factor;
      up *= factor;
#if BIAS
      gate += bias[params.first_output + n];
      up += bias[params.glu_bias + params.first_output + n];
#endif
      store(row, n, activate(gate) * up);
    }
  }
#else
  for (var item = index; item < $(TM * R * 32)u; item += $(32 * YS)u) {
    let m = item / $(R * 32)u;
    var value = partials[item];
    for (var segment = 1u; segment < $(YS)u; segment++) {
      value += partials[segment * $(TM * R * 32)u + item];
    }
    var factor = params.weight_scale;
#if NORM
    factor *= inverse_rms[m];
#endif
    let row = first_row + m;
    let n = group.x * $(R * 32)u + item % $(R * 32)u;
    if (row < num_rows && n < params.num_outputs) {
#if BIAS
      store(row, n, value * factor + bias[params.first_output + n]);
#else
      store(row, n, value * factor);
#endif
    }
  }
#endif
}
