// out = x W^T for many rows (tiled GEMM), fused like linear-broadcast.wgsl: for GPUs, and for every adapter without subgroups of a known size.
//
//   x, codes, scales, out   as in linear-broadcast.wgsl
//   launch   x = packed output rows / (32 R), y = rows / ROWS; workgroup = 32 lanes (output rows) x YS groups of TM rows of x, ROWS = TM YS
//
// A block of 32 inputs of all ROWS rows is staged in workgroup memory; a thread multiplies TM rows of it with R output rows it reads itself
// (the YS groups share them through the cache). The segments of K are summed one after another, in the order of linear-vector.wgsl.
#include "linear-io.wgsl"
#include "linear-tree.wgsl"

var<workgroup> xs: array<vec4<f32>, $(ROWS * 8)>;

@compute @workgroup_size(32, $(YS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let num_rows = rows_of_call();
  let first_row = group.y * $(ROWS)u;
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
#repeat i R
  var sum$(m)_$(i) = 0.0;
  var acc$(m)_$(i) = 0.0;
#end
#end
  let segment_blocks = (params.num_blocks + params.segments - 1u) / params.segments;
  var b = (packed / TILE) * tile_units + packed % TILE;
  for (var segment = 0u; segment < params.segments; segment++) {
    let end_block = min((segment + 1u) * segment_blocks, params.num_blocks);
    for (var block = segment * segment_blocks; block < end_block; block++) {
      workgroupBarrier();
      for (var item = index; item < $(ROWS * 8)u; item += $(32 * YS)u) {
        let at = source_row(first_row + item / 8u, num_rows) * (params.x_stride >> 2u) + block * 8u + item % 8u;
#if NORM
        xs[item] = x[at] * norm_weight[block * 8u + item % 8u];
#else
        xs[item] = x[at];
#endif
      }
      workgroupBarrier();
      for (var part = 0u; part < params.block_steps; part++) {
#repeat m TM
#repeat q STEP_COLS / 4
        let xq$(m)_$(q) = xs[(local.y * $(TM)u + $(m)u) * 8u + part * $(STEP_COLS / 4)u + $(q)u];
#repeat c 4
        let x$(m)_$(4 * q + c) = xq$(m)_$(q)[$(c)];
#end
#end
#end
#include "linear-xsum.wgsl"
#include "linear-block.wgsl"
        b += $(STEP_UNITS * 32)u;
      }
    }
#repeat m TM
#repeat i R
    // The first sum is taken as it is: 0 + (-0) would lose the sign that linear-vector.wgsl keeps.
    sum$(m)_$(i) = select(sum$(m)_$(i) + acc$(m)_$(i), acc$(m)_$(i), segment == 0u);
    acc$(m)_$(i) = 0.0;
#end
#end
  }
#repeat m TM
  {
    let row = first_row + local.y * $(TM)u + $(m)u;
#if NORM
    let factor = inverse_rms[local.y * $(TM)u + $(m)u];
#else
    let factor = 1.0;
#endif
    if (row < num_rows) {
      if (is_gated()) {
#repeat j R / 2
        if (group.x * $(R / 2 * 32)u + $(j * 32)u + local.x < params.num_outputs) {
          let gate = sum$(m)_$(2 * j) * params.weight_scale * factor;
          store(row, group.x * $(R / 2 * 32)u + $(j * 32)u + local.x, gate, sum$(m)_$(2 * j + 1) * params.weight_scale * factor);
        }
#end
      } else {
#repeat i R
        if (packed + $(i * 32)u < params.num_outputs) {
          store(row, packed + $(i * 32)u, sum$(m)_$(i) * params.weight_scale * factor, 0.0);
        }
#end
      }
    }
  }
#end
}
