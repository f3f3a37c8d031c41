// out[r] = table[tokens[r]] * scale: gathers rows of an interleaved weight matrix (matrix.ts), in any format. A token may be one that the
// previous step sampled and the host does not know yet.
//
//   launch   x = rows; workgroup = WS threads over the units of a row. One dispatch a shard: a token outside the shard is left alone.
#include "step.wgsl"

struct EmbedParams {
  num_blocks: u32,
  out_stride: u32,
  cols: u32,
  first_row: u32, // of the shard
  num_rows: u32, // of the shard
  scale: f32, // includes the power of two taken out of the f16 scales
}

@group(0) @binding(1) var<uniform> params: EmbedParams;
@group(0) @binding(2) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read> sampled: array<i32>;

fn put(row: u32, column: u32, value: f32) {
  if (column < params.cols) {
    out[row * params.out_stride + column] = value * params.scale;
  }
}

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
  var token = step[header(TOKENS) + row];
  if (token < 0) {
    token = sampled[header(PREVIOUS_TOKENS) + u32(-token - 1)];
  }
  if (u32(token) < params.first_row || u32(token) >= params.first_row + params.num_rows) {
    return;
  }
  let source = u32(token) - params.first_row;
  let num_units = params.num_blocks * $(UNITS)u;
  for (var unit = lane; unit < num_units; unit += $(WS)u) {
    let v = codes[((source / 32u) * num_units + unit) * 32u + source % 32u];
    let column = unit * $(32 / UNITS)u;
#if FORMAT == 32
#repeat e 4
    put(row, column + $(e)u, bitcast<f32>(v[$(e)]));
#end
#endif
#if FORMAT == 16
#repeat e 4
    let h$(e) = unpack2x16float(v[$(e)]);
    put(row, column + $(2 * e)u, h$(e).x);
    put(row, column + $(2 * e + 1)u, h$(e).y);
#end
#endif
#if FORMAT < 16
    let group_index = column / $(GROUP)u;
#if MINS
    let pair = unpack2x16float(scales[((source / 32u) * params.num_blocks * $(32 / GROUP)u + group_index) * 32u + source % 32u]);
    let weight_scale = pair.x;
    let weight_min = pair.y;
#else
    let num_words = (params.num_blocks * $(32 / GROUP)u + 1u) >> 1u;
    let pair = unpack2x16float(scales[((source / 32u) * num_words + (group_index >> 1u)) * 32u + source % 32u]);
    let weight_scale = select(pair.x, pair.y, (group_index & 1u) == 1u);
#if FORMAT == 4
    let weight_min = -8.0 * weight_scale;
#else
    let weight_min = 0.0;
#endif
#endif
#if FORMAT == 8
#repeat e 16
    put(row, column + $(e)u, fma(f32(bitcast<i32>(v[$(e / 4)] << $(24 - 8 * (e % 4))u) >> 24u), weight_scale, weight_min));
#end
#else
#repeat e 32
    put(row, column + $(e)u, fma(f32((v[$(e / 8)] >> $(4 * (e % 8))u) & 15u), weight_scale, weight_min));
#end
#endif
#endif
  }
}
