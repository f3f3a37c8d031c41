// out = (x - mean) / sqrt(variance + eps) * weight + bias (https://arxiv.org/abs/1607.06450); out may be x.
//
//   launch   x = rows; workgroup = WS threads. Thread t adds up x[t], x[t + WS], ....
#include "step.wgsl"

struct LayerNormParams {
  cols: u32,
  stride: u32,
  inverse_cols: f32,
  eps: f32,
}

@group(0) @binding(1) var<uniform> params: LayerNormParams;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
#if INPLACE
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
#else
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
#endif

#include "row-sums.wgsl"

fn value_at(index: u32) -> f32 {
#if INPLACE
  return out[index];
#else
  return x[index];
#endif
}

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let base = group.x * params.stride;
  var sum = 0.0;
  for (var i = lane; i < params.cols; i += $(WS)u) {
    sum += value_at(base + i);
  }
  let mean = total(sum, lane) * params.inverse_cols;
  sum = 0.0;
  for (var i = lane; i < params.cols; i += $(WS)u) {
    let distance = value_at(base + i) - mean;
    sum = fma(distance, distance, sum);
  }
  let factor = 1.0 / sqrt(total(sum, lane) * params.inverse_cols + params.eps);
  for (var i = lane; i < params.cols; i += $(WS)u) {
    let value = (value_at(base + i) - mean) * factor * weight[i];
#if BIAS
    out[base + i] = value + bias[i];
#else
    out[base + i] = value;
#endif
  }
}
