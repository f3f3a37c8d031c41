// residual = (residual + x / rms(x) * weight) * scale.
//
//   launch   x = rows; workgroup = WS threads. Thread t sums the squares of x[t], x[t + WS], ....
#include "step.wgsl"

struct NormAddParams {
  cols: u32,
  stride: u32,
  inverse_cols: f32,
  eps: f32,
  scale: f32,
}

@group(0) @binding(1) var<uniform> params: NormAddParams;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read_write> residual: array<f32>;

#include "row-sums.wgsl"

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let base = group.x * params.stride;
  var sum = 0.0;
  for (var i = lane; i < params.cols; i += $(WS)u) {
    let value = x[base + i];
    sum = fma(value, value, sum);
  }
  let factor = 1.0 / sqrt(total(sum, lane) * params.inverse_cols + params.eps);
  for (var i = lane; i < params.cols; i += $(WS)u) {
    residual[base + i] = (residual[base + i] + x[base + i] * factor * weight[i]) * params.scale;
  }
}
