// out = act(x). A gated activation splits x into halves: out = act(gate) * up. FLAG_RESIDUAL adds the result to out. All are f32 [rows, stride].
//
//   launch   x = blocks of WS columns, y = rows
#include "step.wgsl"

struct ActivateParams {
  cols: u32, // of out
  x_stride: u32,
  out_stride: u32,
  flags: u32,
  alpha_p: f32, // alpha_p, alpha_n and beta: parameters of xIELU
  alpha_n: f32,
  beta: f32,
}

const FLAG_RESIDUAL = 2u;
#include "activation.wgsl"

@group(0) @binding(1) var<uniform> params: ActivateParams;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let col = group.x * $(WS)u + lane;
  if (col >= params.cols) {
    return;
  }
  let source = group.y * params.x_stride + col;
  var value = x[source];
  if (is_gated()) {
    value = join(value, x[source + params.cols]);
  } else {
    value = activate(value);
  }
  let at = group.y * params.out_stride + col;
  if ((params.flags & FLAG_RESIDUAL) != 0u) {
    value += out[at];
  }
  out[at] = value;
}
