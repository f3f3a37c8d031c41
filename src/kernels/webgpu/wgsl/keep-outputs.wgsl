// Moves the output rows of x, f32 [rows, stride], to its front.
//
//   launch   x = blocks of WS columns; one thread per column, row after row. A row stays or moves to the place of an earlier row, already read.
#include "step.wgsl"

struct KeepParams {
  stride: u32,
}

@group(0) @binding(1) var<uniform> params: KeepParams;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

@compute @workgroup_size($(WS))
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= params.stride) {
    return;
  }
  let count = header(NUM_OUTPUT_ROWS);
  for (var i = 0u; i < count; i++) {
    let row = u32(step[header(OUTPUT_ROWS) + i]);
    if (row != i) {
      x[i * params.stride + id.x] = x[row * params.stride + id.x];
    }
  }
}
