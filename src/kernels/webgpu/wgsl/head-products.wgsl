// out[row, head, i] = dot product of the head's part of row `row` of x with the head's vector i.
//
//   table    f32 [heads, count / 16, depth, 16]
//   launch   x = heads times blocks of WS vectors, y = rows / ROWS; workgroup = WS threads, each with one vector and ROWS rows
#include "step.wgsl"

struct HeadProductsParams {
  x_stride: u32,
  x_offset: u32,
  out_stride: u32,
  out_offset: u32,
  depth: u32,
  count: u32, // vectors of a head
}

@group(0) @binding(1) var<uniform> params: HeadProductsParams;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> table: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let blocks = (params.count + $(WS - 1)u) / $(WS)u;
  let head = group.x / blocks;
  let vector = (group.x % blocks) * $(WS)u + lane;
  if (vector >= params.count) {
    return;
  }
  let num_rows = header(NUM_ROWS);
  let first = group.y * $(ROWS)u;
  var at = (head * params.count + (vector & ~15u)) * params.depth + (vector & 15u);
#repeat i ROWS
  var sum_$(i) = 0.0;
  // Rows past the last repeat the last row and are not stored.
  let from_$(i) = min(first + $(i)u, num_rows - 1u) * params.x_stride + params.x_offset + head * params.depth;
#end
  for (var d = 0u; d < params.depth; d++) {
    let value = table[at];
#repeat i ROWS
    sum_$(i) = fma(x[from_$(i) + d], value, sum_$(i));
#end
    at += 16u;
  }
#repeat i ROWS
  if (first + $(i)u < num_rows) {
    out[(first + $(i)u) * params.out_stride + params.out_offset + head * params.count + vector] = sum_$(i);
  }
#end
}
