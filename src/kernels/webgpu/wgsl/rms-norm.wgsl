// out = x / rms(x) * weight for each group of columns separately (RMSNorm, https://arxiv.org/abs/1910.07467); out may be x.
//
//   launch   x = rows, y = groups; workgroup = WS threads. Thread t sums the squares of x[t], x[t + WS], ....
#include "step.wgsl"

struct RmsNormParams {
  width: u32, // of a group
  x_stride: u32,
  out_stride: u32,
  inverse_width: f32,
  eps: f32,
}

@group(0) @binding(1) var<uniform> params: RmsNormParams;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
#if INPLACE
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
#else
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
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
  let base = group.x * params.x_stride + group.y * params.width;
  let to = group.x * params.out_stride + group.y * params.width;
  var sum = 0.0;
  for (var i = lane; i < params.width; i += $(WS)u) {
    let value = value_at(base + i);
    sum = fma(value, value, sum);
  }
  let factor = 1.0 / sqrt(total(sum, lane) * params.inverse_width + params.eps);
  for (var i = lane; i < params.width; i += $(WS)u) {
    out[to + i] = value_at(base + i) * factor * weight[i];
  }
}
