// The inputs of a matrix product, made once for all its workgroups: rows gathered, normalised where asked, and in the form the weights want.
//
//   x         f32 [rows, x_stride]
//   prepared  INT8: [row][block of 32] 3 vec4<u32>: 32 int8 codes; scale, sum of the first 16 values, sum of the last 16, -8 x sum of the codes
//             else: f32 [row][32 x num_blocks]
//   launch    x = rows; workgroup = WS threads
//
// code = nearest(x * 127 / max |x|) over a block, as in cpu/assembly/prepare.ts. Codes lie in order; for q4 (NIBBLES), whose words are taken
// apart by a mask and a shift, the first vec4 holds the even inputs of each 8, the second the odd ones.
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

#if NORM
#include "row-sums.wgsl"

// 1 / rms of the row: thread t adds up the squares of vectors t, t + WS, ...
fn inverse_rms(base: u32, lane: u32) -> f32 {
  var sum = 0.0;
  for (var i = lane; i < params.num_blocks * 8u; i += $(WS)u) {
    let value = x[base + i];
    sum += value.x * value.x + value.y * value.y + (value.z * value.z + value.w * value.w);
  }
  return 1.0 / sqrt(total(sum, lane) * params.inverse_cols + params.eps);
}
#endif

#if INT8
fn pack4(codes: vec4<i32>) -> u32 {
  let bytes = bitcast<vec4<u32>>(codes) & vec4<u32>(255u);
  return bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u);
}

fn sum4(codes: vec4<i32>) -> i32 {
  return codes.x + codes.y + (codes.z + codes.w);
}
#endif

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let base = source_row(params.rows, group.x) * (params.x_stride >> 2u);
#if NORM
  let factor = inverse_rms(base, lane);
#endif
#if INT8
  for (var block = lane; block < params.num_blocks; block += $(WS)u) {
    var largest = vec4<f32>(0.0);
#repeat q 8
#if NORM
    let value$(q) = x[base + block * 8u + $(q)u] * factor * norm_weight[block * 8u + $(q)u];
#else
    let value$(q) = x[base + block * 8u + $(q)u];
#endif
    largest = max(largest, abs(value$(q)));
#end
    let amplitude = max(max(largest.x, largest.y), max(largest.z, largest.w));
    // The division, unlike the multiplication by a reciprocal, cannot overflow for a tiny amplitude.
    let is_zero = amplitude <= 1e-35;
    let inverse = select(127.0 / amplitude, 0.0, is_zero);
    let scale = select(amplitude / 127.0, 0.0, is_zero);
#repeat q 8
    let codes$(q) = vec4<i32>(round(value$(q) * inverse));
#end
    let low = sum4(codes0 + codes1) + sum4(codes2 + codes3);
    let high = sum4(codes4 + codes5) + sum4(codes6 + codes7);
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
    let sums = vec3<f32>(scale, scale * f32(low), scale * f32(high));
    prepared[at + 2u] = vec4<u32>(bitcast<vec3<u32>>(sums), bitcast<u32>(-8 * (low + high)));
  }
#else
  for (var i = lane; i < params.num_blocks * 8u; i += $(WS)u) {
#if NORM
    let value = x[base + i] * factor * norm_weight[i];
#else
    let value = x[base + i];
#endif
    prepared[group.x * params.num_blocks * 8u + i] = bitcast<vec4<u32>>(value);
  }
#endif
}
