// pooled[s] = one row that represents all rows of sequence s.
//
//   launch   x = sequences, y = columns / WS; workgroup = WS threads, one per column
#include "step.wgsl"

struct PoolParams {
  cols: u32,
  stride: u32,
  pooling: u32, // 0: mean, 1: first row, 2: last row, 3: maximum, 4: mean weighted by 1, 2, ..., 5: sum / sqrt(number of rows)
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
  var most = x[first * params.stride + column];
  for (var row = first; row < after; row++) {
    let value = x[row * params.stride + column];
    most = max(most, value);
    sum = fma(value, select(1.0, f32(row - first + 1u), params.pooling == 4u), sum);
  }
  let count = f32(after - first);
  var divisor = count;
  if (params.pooling == 4u) {
    divisor = count * (count + 1.0) / 2.0;
  } else if (params.pooling == 5u) {
    divisor = sqrt(count);
  }
  pooled[group.x * params.cols + column] = select(sum / divisor, most, params.pooling == 3u);
}
