// pooled[s] = the mean of a sequence's rows, or its first or last row.
//
//   launch   x = sequences, y = columns / WS; workgroup = WS threads, each with a column
#include "step.wgsl"

struct PoolParams {
  cols: u32,
  stride: u32,
  pooling: u32, // 0: mean, 1: first, 2: last
}

@group(0) @binding(1) var<uniform> params: PoolParams;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> pooled: array<f32>; // [sequences, cols]

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let column = group.y * $(WS)u + lane;
  if (column >= params.cols) {
    return;
  }
  let start = u32(step[header(SEQUENCE_STARTS) + group.x]);
  let end = u32(step[header(SEQUENCE_STARTS) + group.x + 1u]);
  let first = select(start, end - 1u, params.pooling == 2u);
  let after = select(end, start + 1u, params.pooling == 1u);
  var sum = 0.0;
  for (var row = first; row < after; row++) {
    sum += x[row * params.stride + column];
  }
  pooled[group.x * params.cols + column] = sum / f32(after - first);
}
