// RMSNorm (https://arxiv.org/abs/1910.07467) of each group of columns, and a multiplication by silu(gate) before (GATES_FIRST) or after it. In place.
//
//   launch   x = groups, y = rows; workgroup = WS threads. Thread t sums the squares of columns t, t + WS, ....
#include "step.wgsl"

struct GateNormParams {
  width: u32,
  x_stride: u32,
  gate_stride: u32,
  gate_offset: u32,
  weight_step: u32, // from one group's weights to the next's
  inverse_width: f32,
  eps: f32,
}

@group(0) @binding(1) var<uniform> params: GateNormParams;
@group(0) @binding(2) var<storage, read> gate: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read_write> x: array<f32>;

#include "row-sums.wgsl"

fn silu(v: f32) -> f32 {
  return v / (1.0 + exp(-v));
}

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let base = group.y * params.x_stride + group.x * params.width;
  let gates = group.y * params.gate_stride + params.gate_offset + group.x * params.width;
  var sum = 0.0;
  for (var i = lane; i < params.width; i += $(WS)u) {
#if GATES_FIRST
    let value = x[base + i] * silu(gate[gates + i]);
    x[base + i] = value;
#else
    let value = x[base + i];
#endif
    sum = fma(value, value, sum);
  }
  let factor = 1.0 / sqrt(total(sum, lane) * params.inverse_width + params.eps);
  for (var i = lane; i < params.width; i += $(WS)u) {
    let value = x[base + i] * factor * weight[group.x * params.weight_step + i];
#if GATES_FIRST
    x[base + i] = value;
#else
    x[base + i] = value * silu(gate[gates + i]);
#endif
  }
}
