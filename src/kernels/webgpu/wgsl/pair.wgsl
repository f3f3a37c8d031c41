// x = (x + y) * scale; MULTIPLY: x = x * y. Both are f32 [rows, stride]; y is read from column `offset` on.
//
//   launch   x = blocks of WS columns, y = rows
#include "step.wgsl"

struct PairParams {
  cols: u32,
  x_stride: u32,
  y_stride: u32,
  offset: u32,
  scale: f32,
}

@group(0) @binding(1) var<uniform> params: PairParams;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let col = group.x * $(WS)u + lane;
  if (col < params.cols) {
    let at = group.y * params.x_stride + col;
    let other = y[group.y * params.y_stride + params.offset + col];
#if MULTIPLY
    x[at] *= other;
#else
    x[at] = (x[at] + other) * params.scale;
#endif
  }
}
