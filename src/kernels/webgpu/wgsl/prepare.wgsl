// Prepares the inputs of a matrix product, once for all its workgroups: gathers the rows, normalises them (NORM), and converts them to the form that
// the weight format needs.
//
//   x         f32 [rows, x_stride]
//   prepared  INT8: [row][block of 32] records (quantize.wgsl), 3 vec4<u32> each
//             else: f32 [row][32 x num_blocks]
//   launch    x = rows; workgroup = WS threads. INT8: y = blocks / WS, a thread per block
#include "rows.wgsl"

struct PrepareParams {
  num_blocks: u32,
  x_stride: u32, // floats
  inverse_cols: f32,
  eps: f32,
  rows: u32, // which rows: ROWS_*
}

@group(0) @binding(1) var<uniform> params: PrepareParams;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> norm_weight: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> prepared: array<vec4<u32>>;

#if INT8
#include "quantize.wgsl"

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let block = group.y * $(WS)u + lane;
  if (block >= params.num_blocks) {
    return;
  }
  let first = source_row(params.rows, group.x) * (params.x_stride >> 2u) + block * 8u;
  var largest = vec4<f32>(0.0);
  var squares = 0.0;
#repeat q 8
#if NORM
  let input$(q) = x[first + $(q)u];
  squares += squares_of(input$(q));
  let value$(q) = input$(q) * norm_weight[block * 8u + $(q)u];
#else
  let value$(q) = x[first + $(q)u];
#endif
  largest = max(largest, abs(value$(q)));
#end
  let amplitude = largest_of(largest);
  let inverse = inverse_scale(amplitude);
#repeat q 8
  let codes$(q) = codes_of_quad(value$(q), inverse);
#end
  let at = (group.x * params.num_blocks + block) * 3u;
#if NIBBLES
  prepared[at] = vec4<u32>(
#repeat o 4
    pack4(vec4<i32>(codes$(2 * o).xz, codes$(2 * o + 1).xz)),
#end
  );
  prepared[at + 1u] = vec4<u32>(
#repeat o 4
    pack4(vec4<i32>(codes$(2 * o).yw, codes$(2 * o + 1).yw)),
#end
  );
#else
  prepared[at] = vec4<u32>(pack4(codes0), pack4(codes1), pack4(codes2), pack4(codes3));
  prepared[at + 1u] = vec4<u32>(pack4(codes4), pack4(codes5), pack4(codes6), pack4(codes7));
#endif
  let low = sum4(codes0) + sum4(codes1) + sum4(codes2) + sum4(codes3);
  let high = sum4(codes4) + sum4(codes5) + sum4(codes6) + sum4(codes7);
  prepared[at + 2u] = numbers_of(amplitude, low, high, squares);
}
#else
#if NORM
#include "row-sums.wgsl"

// 1 / rms of the row. Thread t sums the squares of vectors t, t + WS, ....
fn inverse_rms(base: u32, lane: u32) -> f32 {
  var sum = 0.0;
  for (var i = lane; i < params.num_blocks * 8u; i += $(WS)u) {
    let value = x[base + i];
    sum += value.x * value.x + value.y * value.y + (value.z * value.z + value.w * value.w);
  }
  return 1.0 / sqrt(total(sum, lane) * params.inverse_cols + params.eps);
}
#endif

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let base = source_row(params.rows, group.x) * (params.x_stride >> 2u);
#if NORM
  let factor = inverse_rms(base, lane);
#endif
  for (var i = lane; i < params.num_blocks * 8u; i += $(WS)u) {
#if NORM
    let value = x[base + i] * factor * norm_weight[i];
#else
    let value = x[base + i];
#endif
    prepared[group.x * params.num_blocks * 8u + i] = bitcast<vec4<u32>>(value);
  }
}
#endif
