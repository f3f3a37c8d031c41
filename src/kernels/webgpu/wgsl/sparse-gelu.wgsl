// x = gelu_tanh(max(0, x - mean - deviations * standard deviation)), with the mean and standard deviation of the row.
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
    // Implementations of tanh that use exp overflow for large arguments. From 10 on, tanh rounds to 1 in f32.
    let inner = clamp(0.7978845608028654 * fma(0.044715 * value * value, value, value), -10.0, 10.0);
    x[base + i] = 0.5 * value * (1.0 + tanh(inner));
  }
}
