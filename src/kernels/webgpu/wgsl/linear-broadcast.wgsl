// out = x W^T with fused norm, bias, gate or residual, for adapters where memory reads cost by the word and barriers are dear: software
// adapters. One subgroup a workgroup, no barrier, no workgroup memory.
//
//   x        f32 [rows, x_stride]
//   codes    [tile][unit][32 output rows] vec4<u32>; scales: see matrix.ts
//   out      f32 [rows, out_stride]
//   launch   x = output rows / (LANES R), y = rows / TM; workgroup = one subgroup of LANES
//
// A lane owns R output rows and accumulates TM input rows for each: a weight word is read once for TM rows. Each lane reads its share of a
// block of x once, and the others get it by subgroupBroadcast with a constant lane, which is one shuffle.
// Norm: the weights multiply x on the way in; the sum of squares is gathered along the same walk and 1/rms scales the result, so that the
// norm costs neither a pass over x nor a dispatch.
// Tried on llvmpipe (Mesa 25.0): x read by every lane 1.5 to 2.5 times slower; one output row a lane 2 times slower; weights through a
// texture no faster; 64 lanes with workgroup memory 10 times slower.
enable subgroups;
// Every lane runs the same loops: the bounds come from uniforms and workgroup ids.
diagnostic(off, subgroup_uniformity);
#include "linear-io.wgsl"

@compute @workgroup_size($(LANES))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let num_rows = rows_of_chunk();
  let first_row = group.y * $(TM)u;
  if (first_row >= num_rows) {
    return;
  }
  let packed = group.x * $(LANES * R)u + lane;
#if X_WIDTH == 4
  let x_stride = params.x_stride >> 2u;
#else
  let x_stride = params.x_stride >> 1u;
#endif
#repeat m TM
  let x_at$(m) = source_row(first_row + $(m)u, num_rows) * x_stride + lane;
#if NORM
  var squares$(m) = 0.0;
#endif
#repeat i R
  var acc$(m)_$(i) = 0.0;
#if FORMAT < 16
  var group$(m)_$(i) = 0.0;
#endif
#end
#end
#include "linear-scales.wgsl"
  var b = (packed / TILE) * tile_units + packed % TILE;
  for (var block = 0u; block < params.num_blocks; block++) {
#repeat r 32 / (LANES * X_WIDTH)
#if NORM
    let weight$(r) = norm_weight[block * $(32 / X_WIDTH)u + $(r * LANES)u + lane];
#endif
#repeat m TM
#if NORM
    let raw$(m)_$(r) = x[x_at$(m) + block * $(32 / X_WIDTH)u + $(r * LANES)u];
    squares$(m) += dot(raw$(m)_$(r), raw$(m)_$(r));
    let xv$(m)_$(r) = raw$(m)_$(r) * weight$(r);
#else
    let xv$(m)_$(r) = x[x_at$(m) + block * $(32 / X_WIDTH)u + $(r * LANES)u];
#endif
#end
#end
#if FORMAT == 4 || (FORMAT == 8 && MINS)
#repeat m TM
#repeat r 32 / (LANES * X_WIDTH)
    let part$(m)_$(r) = dot(xv$(m)_$(r), vec$(X_WIDTH)<f32>(1.0));
#end
#repeat h 32 / GROUP
    var xsum$(m)_$(h) = 0.0;
#repeat l GROUP / X_WIDTH
    xsum$(m)_$(h) += subgroupBroadcast(part$(m)_$((h * GROUP / X_WIDTH + l) / LANES), $((h * GROUP / X_WIDTH + l) % LANES)u);
#end
#end
#end
#endif
#include "linear-block.wgsl"
    b += $(UNITS * 32)u;
  }
#repeat m TM
  {
    let row = first_row + $(m)u;
    var factor = params.weight_scale;
#if NORM
    var total = 0.0;
#repeat l LANES
    total += subgroupBroadcast(squares$(m), $(l)u);
#end
    factor *= 1.0 / sqrt(total * params.inverse_cols + params.eps);
#endif
#if GLU > 0
    // Gate and up rows alternate in runs of LANES packed rows.
#repeat j R / 2
    {
      let n = group.x * $(LANES * R / 2)u + $(j * LANES)u + lane;
      if (row < num_rows && n < params.num_outputs) {
#if BIAS
        let column = params.first_output + n;
        let gate = acc$(m)_$(2 * j) * factor + bias[column];
        let up = acc$(m)_$(2 * j + 1) * factor + bias[params.glu_bias + column];
#else
        let gate = acc$(m)_$(2 * j) * factor;
        let up = acc$(m)_$(2 * j + 1) * factor;
#endif
        store(row, n, activate(gate) * up);
      }
    }
#end
#else
#repeat i R
    {
      let n = packed + $(i * LANES)u;
      if (row < num_rows && n < params.num_outputs) {
#if BIAS
        store(row, n, acc$(m)_$(i) * factor + bias[params.first_output + n]);
#else
        store(row, n, acc$(m)_$(i) * factor);
#endif
      }
    }
#end
#endif
  }
#end
}
