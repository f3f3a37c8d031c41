// x = gelu_tanh(max(0, x - mean - deviations * standard deviation)), by the row's mean and standard deviation.
//
//   launch   x = rows; workgroup = WS threads
#include "step.wgsl"

struct SparseGeluParams {
  cols: u32,
  stride: u32,
  inverse_cols: f32,
  deviations: f32,
}

@group(0) @binding(1) var<uniform> params: SparseGeluParams;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

#include "row-sums.wgsl"

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let base = group.x * params.stride;
  var sum = 0.0;
  for (var i = lane; i < params.cols; i += $(WS)u) {
    sum += x[base + i];
  }
  let mean = total(sum, lane) * params.inverse_cols;
  sum = 0.0;
  for (var i = lane; i < params.cols; i += $(WS)u) {
    let distance = x[base + i] - mean;
    sum = fma(distance, distance, sum);
  }
  let cutoff = mean + sqrt(total(sum, lane) * params.inverse_cols) * params.deviations;
  for (var i = lane; i < params.cols; i += $(WS)u) {
    let value = max(0.0, x[base + i] - cutoff);
    // tanh of a large argument overflows in implementations that use exp; it is 1 to f32 from 10 on.
    let inner = clamp(0.7978845608028654 * fma(0.044715 * value * value, value, value), -10.0, 10.0);
    x[base + i] = 0.5 * value * (1.0 + tanh(inner));
  }
}
