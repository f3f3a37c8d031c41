// x *= sigmoid(gate), both f32 [rows, stride]. The gate may have a single column, which applies to all columns of x.
//
//   launch   x = blocks of WS columns, y = rows
#include "step.wgsl"

struct SigmoidGateParams {
  cols: u32,
  x_stride: u32,
  gate_stride: u32,
  gate_step: u32, // 0: the gate has one column, else 1
}

@group(0) @binding(1) var<uniform> params: SigmoidGateParams;
@group(0) @binding(2) var<storage, read> gate: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let col = group.x * $(WS)u + lane;
  if (col < params.cols) {
    x[group.y * params.x_stride + col] /= 1.0 + exp(-gate[group.y * params.gate_stride + col * params.gate_step]);
  }
}
