// out[r] = table[tokens[r]] * scale: gathers rows of a tiled weight matrix (matrix.ts) of any format. ADDS: adds to out. BY_PLACE: places[r] instead
// of tokens[r]. A token may be one that the previous step sampled and the host does not know yet.
//
//   launch   x = rows; workgroup = WS threads over the columns. One dispatch per shard, which skips the tokens outside it.
#include "step.wgsl"

struct EmbedParams {
  num_blocks: u32,
  out_stride: u32,
  cols: u32,
  first_row: u32, // of the shard
  num_rows: u32, // of the shard
  table_rows: u32, // of all shards
  scale: f32, // includes the power of two taken out of the f16 scales
}

@group(0) @binding(1) var<uniform> params: EmbedParams;
@group(0) @binding(2) var<storage, read> codes: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read> sampled: array<i32>;

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
#if BY_PLACE
  let token = step[header(PLACES) + row];
#else
  var token = step[header(TOKENS) + row];
  if (token < 0) {
    token = sampled[header(PREVIOUS_TOKENS) + u32(-token - 1)];
  }
#if ADDS
  token = select(0, token, u32(token) < params.table_rows);
#endif
#endif
  if (u32(token) < params.first_row || u32(token) >= params.first_row + params.num_rows) {
    return;
  }
  let tile = (u32(token) - params.first_row) / 32u;
  let tile_row = (u32(token) - params.first_row) % 32u;
  for (var column = lane; column < params.cols; column += $(WS)u) {
    // [tile][unit][32 rows][4 words]
    let word_index = column / $(32 / FORMAT)u;
    let unit = tile * params.num_blocks * $(FORMAT / 4)u + word_index / 4u;
    let word = codes[(unit * 32u + tile_row) * 4u + word_index % 4u];
    let shift = (column % $(32 / FORMAT)u) * $(FORMAT)u;
#if FORMAT == 32
    let value = bitcast<f32>(word);
#endif
#if FORMAT == 16
    let value = unpack2x16float(word >> shift).x;
#endif
#if FP4
    let exponents = scales[(tile * ((params.num_blocks + 3u) >> 2u) + column / 128u) * 32u + tile_row];
    let weight_scale = bitcast<f32>(((exponents >> (column / 32u % 4u * 8u)) & 255u) << 23u);
    let code = word >> shift;
    // Doubled magnitudes: 0, 1, 2, 3, 4, 6, 8, 12.
    let magnitude = f32((0xc8643210u >> (4u * (code & 7u))) & 15u);
    let value = select(magnitude, -magnitude, (code & 8u) != 0u) * weight_scale;
#endif
#if FORMAT < 16 && !FP4
    let group_index = column / $(GROUP)u;
#if MINS
    let pair = unpack2x16float(scales[(tile * params.num_blocks * $(32 / GROUP)u + group_index) * 32u + tile_row]);
    let weight_scale = pair.x;
    let weight_min = pair.y;
#else
    let num_words = (params.num_blocks * $(32 / GROUP)u + 1u) >> 1u;
    let pair = unpack2x16float(scales[(tile * num_words + (group_index >> 1u)) * 32u + tile_row]);
    let weight_scale = select(pair.x, pair.y, (group_index & 1u) == 1u);
#if FORMAT == 4
    let weight_min = -8.0 * weight_scale;
#else
    let weight_min = 0.0;
#endif
#endif
#if FORMAT == 8
    let code = f32(bitcast<i32>(word << (24u - shift)) >> 24u);
#else
    let code = f32((word >> shift) & 15u);
#endif
    let value = fma(code, weight_scale, weight_min);
#endif
#if ADDS
    out[row * params.out_stride + column] += value * params.scale;
#else
    out[row * params.out_stride + column] = value * params.scale;
#endif
  }
}
