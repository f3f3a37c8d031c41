// out = x W^T with fused norm, bias, gate or residual, for adapters where memory reads cost by the word and barriers are dear: software
// adapters. One subgroup a workgroup, no barrier, no workgroup memory.
//
//   x        f32 [rows, x_stride]
//   codes    [tile][unit][32 output rows] vec4<u32>; scales: see matrix.ts
//   out      f32 [rows, out_stride]
//   launch   x = packed output rows / (LANES R), y = rows / TM; workgroup = one subgroup of LANES
//
// A lane owns R output rows and accumulates TM input rows for each: a weight word is read once for TM rows. Each lane reads its share of a
// step's inputs once, and the others get it by subgroupBroadcast with a constant lane, which is one shuffle.
// Norm: the weights multiply x on the way in; the squares are gathered along the same walk and 1/rms scales the result, so that the norm
// costs neither a pass over x nor a dispatch.
// Tried on llvmpipe (Mesa 25.0): x read by every lane 1.5 to 2.5 times slower; weights through a texture no faster; 64 lanes with workgroup
// memory 10 times slower. A read compiles to a branch for each of its words and lanes, 0.1 s of compile time each, so the text has as few
// reads as possible: a step is the fewest units that give every lane an input, and loops that must not unroll have bounds from uniforms.
// A read also keeps its result in memory when many values are live, and waits for that memory eight times over. With many rows of x the
// weights are therefore read ahead of the broadcasts (AHEAD): 1.1 to 1.5 times faster; with one row it is 1.1 times slower.
enable subgroups;
// Every lane runs the same loops: the bounds come from uniforms and workgroup ids.
diagnostic(off, subgroup_uniformity);
#include "linear-io.wgsl"

@compute @workgroup_size($(LANES))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let num_rows = rows_of_call();
  let first_row = group.y * $(TM)u;
  if (first_row >= num_rows) {
    return;
  }
  let packed = group.x * $(LANES * R)u + lane;
#repeat m TM
  let x_at$(m) = source_row(first_row + $(m)u, num_rows) * (params.x_stride / $(W)u) + lane;
#if NORM
#repeat r STEP_COLS / (LANES * W)
#if W == 1
  var squares$(m)_$(r) = 0.0;
#else
  var squares$(m)_$(r) = vec$(W)<f32>(0.0);
#endif
#end
#endif
#repeat i R
  var acc$(m)_$(i) = 0.0;
#end
#end
#include "linear-scales.wgsl"
  var b = (packed / TILE) * tile_units + packed % TILE;
  let num_steps = params.num_blocks * $(32 / STEP_COLS)u;
  for (var block = 0u; block < num_steps; block++) {
#repeat r STEP_COLS / (LANES * W)
#if NORM
    let weight$(r) = norm_weight[block * $(STEP_COLS / W)u + $(r * LANES)u + lane];
#endif
#repeat m TM
#if NORM
    let raw$(m)_$(r) = x[x_at$(m) + block * $(STEP_COLS / W)u + $(r * LANES)u];
    squares$(m)_$(r) = fma(raw$(m)_$(r), raw$(m)_$(r), squares$(m)_$(r));
    let xv$(m)_$(r) = raw$(m)_$(r) * weight$(r);
#else
    let xv$(m)_$(r) = x[x_at$(m) + block * $(STEP_COLS / W)u + $(r * LANES)u];
#endif
#end
#end
#if AHEAD
#repeat i R
#repeat u STEP_UNITS
    let codes$(i)_$(u) = codes[b + $(i * LANES / 32)u * tile_units + $(u * 32 + i * LANES % 32)u];
#end
#end
#endif
#repeat m TM
#repeat k STEP_COLS
#if W == 1
    let x$(m)_$(k) = subgroupBroadcast(xv$(m)_$(k / LANES), $(k % LANES)u);
#else
    let x$(m)_$(k) = subgroupBroadcast(xv$(m)_$(k / (LANES * W))[$(k % W)], $(k / W % LANES)u);
#endif
#end
#end
#include "linear-xsum.wgsl"
#include "linear-block.wgsl"
    b += $(STEP_UNITS * 32)u;
  }
  var sums: array<f32, $(TM * R)>;
  var factors: array<f32, $(TM)>;
#repeat m TM
#if NORM
  var total$(m) = 0.0;
#repeat k STEP_COLS
#if W == 1
  total$(m) += subgroupBroadcast(squares$(m)_$(k / LANES), $(k % LANES)u);
#else
  total$(m) += subgroupBroadcast(squares$(m)_$(k / (LANES * W))[$(k % W)], $(k / W % LANES)u);
#endif
#end
  factors[$(m)] = params.weight_scale / sqrt(total$(m) * params.inverse_cols + params.eps);
#else
  factors[$(m)] = params.weight_scale;
#endif
#repeat i R
  sums[$(m * R + i)] = acc$(m)_$(i);
#end
#end
  let end_row = min(num_rows - first_row, $(TM)u);
  // Gate and up rows alternate in runs of LANES packed rows, so that a lane has both.
  let stride = select(1u, 2u, is_gated());
  for (var m = 0u; m < end_row; m++) {
    for (var i = 0u; i < params.rows_per_lane; i += stride) {
      let n = (group.x * $(R)u + i) / stride * $(LANES)u + lane;
      if (n < params.num_outputs) {
        let at = m * $(R)u + i;
        store(first_row + m, n, sums[at] * factors[m], sums[min(at + 1u, $(TM * R - 1)u)] * factors[m]);
      }
    }
  }
}
