// out (+)= bias + the weighted sum of the outputs of a row's experts, added in order from the best expert down.
//
//   outputs  f32 [pairs, outputs_stride]
//   launch   x = rows, y = columns / 64; workgroup = 64 threads
#include "step.wgsl"

struct CombineParams {
  cols: u32,
  outputs_stride: u32,
  out_stride: u32,
  top_k: u32,
  max_pairs: u32,
  residual: u32,
  has_bias: u32,
}

@group(0) @binding(1) var<uniform> params: CombineParams;
@group(0) @binding(2) var<storage, read> outputs: array<f32>;
@group(0) @binding(3) var<storage, read> routing: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>; // [cols]
#include "routing.wgsl"

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let column = group.y * 64u + lane;
  if (column >= params.cols) {
    return;
  }
  let first_pair = group.x * params.top_k;
  var sum = 0.0;
  if (params.has_bias != 0u) {
    sum = bias[column];
  }
  for (var k = 0u; k < params.top_k; k++) {
    let weight = bitcast<f32>(routing[weight_of(params.max_pairs, first_pair + k)]);
    sum = fma(weight, outputs[(first_pair + k) * params.outputs_stride + column], sum);
  }
  let at = group.x * params.out_stride + column;
  if (params.residual != 0u) {
    sum += out[at];
  }
  out[at] = sum;
}
