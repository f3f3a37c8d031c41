// The adapter of a row and where its update of a layer is. packLowRank of kernels/low-rank.ts lays out table and values.
#include "step.wgsl"

const TABLE_HEADER = 3u; // sum of the parts' ranks, word of `values` where `down` begins, number of parts
const PART_WORDS = 5u; // first row, end row, first rank, number of ranks, word of `values` where `up` begins

struct LowRankParams {
  cols: u32, // of x
  x_stride: u32,
  outputs: u32, // columns of out
  out_stride: u32,
  table_stride: u32,
  between_stride: u32,
  inverse_cols: f32,
  eps: f32,
  adapters: u32, // word of the step's header with the offset of the rows' adapters
}

@group(0) @binding(1) var<uniform> params: LowRankParams;
@group(0) @binding(2) var<storage, read> table: array<u32>;
@group(0) @binding(3) var<storage, read> values: array<f32>;

fn adapter_of(row: u32) -> i32 {
  return step[header(params.adapters) + row];
}
