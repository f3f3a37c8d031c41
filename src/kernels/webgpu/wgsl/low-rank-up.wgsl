// out += up between: the product with the second factor of each row's adapter.
//
//   launch   x = blocks of WS columns of out, y = rows
#include "low-rank.wgsl"

@group(0) @binding(4) var<storage, read> between: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = group.y;
  let adapter = adapter_of(row);
  let col = group.x * $(WS)u + lane;
  if (adapter < 0 || col >= params.outputs) {
    return;
  }
  let place = u32(adapter) * params.table_stride;
  let parts = table[place + 2u];
  for (var part = 0u; part < parts; part++) {
    let at = place + TABLE_HEADER + part * PART_WORDS;
    let first_row = table[at];
    let end_row = table[at + 1u];
    if (col < first_row || col >= end_row) {
      continue;
    }
    let source = row * params.between_stride + table[at + 2u];
    let rank = table[at + 3u];
    let rows = end_row - first_row;
    var word = table[at + 4u] + col - first_row;
    var sum = 0.0;
    for (var k = 0u; k < rank; k++) {
      sum = fma(between[source + k], values[word], sum);
      word += rows;
    }
    out[row * params.out_stride + col] += sum;
  }
}
