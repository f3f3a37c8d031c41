// out = x W^T for many rows (tiled GEMM), with bias, gate or residual.
//
//   x, codes, scales, out   as in linear-vector.wgsl
//   EXPERTS  y is a tile of (row, expert) pairs (routing.wgsl)
//   launch   x = packed output rows / 64, y = rows / 64; workgroup = 16 x 16 threads of 4 output rows and 4 rows of x each
//
// For each block of 32 inputs, 64 rows of x and 64 output rows are staged in workgroup memory, codes as int8, floats as f32. Each value is read from
// memory and unpacked once for 64 uses. The segments of K are summed one after another, in the order of linear-vector.wgsl.
#include "linear-io.wgsl"
#include "linear-weights.wgsl"

#if FORMAT < 16
var<workgroup> xs: array<vec4<u32>, 192>; // [64 rows][3]
var<workgroup> ws: array<vec4<u32>, 256>; // [2][64 output rows]
var<workgroup> weights_of: array<vec4<f32>, 64>;
#if NORMED
var<workgroup> factors: array<f32, 64>; // 1 / rms of each row
#endif
#else
var<workgroup> xs: array<vec4<f32>, 512>; // [64 rows][8]
var<workgroup> ws: array<vec4<f32>, 512>; // [8][64 output rows]
#endif

#if NEXT
// x: row of the first result, y: end of the rows, z: column of the first result.
var<private> first_result: vec3<u32>;

fn place_of(own: u32) -> Place {
  let blocks = select(2u, 1u, is_gated());
  let row = first_result.x + own / blocks * 4u;
  let column = first_result.z + own % blocks * 32u;
  return place_at(row, column, row < first_result.y && column < params.num_outputs);
}
#endif

// The row of x for row `row` of this call.
fn x_row(row: u32) -> u32 {
#if EXPERTS
  return routing[sorted_at(params.max_pairs, row)] / params.pairs_of_row;
#else
  return params.first_row + row;
#endif
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
  let row_tile = params.first_tile + group.y;
#if EXPERTS
  if (row_tile >= routing[num_tiles_at(params.max_pairs)]) {
    return;
  }
  let tile = tile_at(params.max_pairs, row_tile);
  if (!take_expert(routing[tile])) {
    return;
  }
  let first_row = routing[tile + 1u];
  let num_rows = first_row + routing[tile + 2u];
  let packed = expert * params.expert_rows + group.x * 64u;
#else
  let num_rows = num_rows_of_call();
  let first_row = row_tile * 64u;
  if (first_row >= num_rows) {
    return;
  }
  let packed = group.x * 64u;
#endif
  let lane = index % 16u;
  let first_m = index / 16u * 4u;
#repeat m 4
#repeat i 4
  var sum$(m)_$(i) = 0.0;
  var acc$(m)_$(i) = 0.0;
#end
#end
#if NORMED
  var all_squares = 0.0;
#endif
  let segment_blocks = (params.num_blocks + $(SEGMENTS - 1)u) / $(SEGMENTS)u;
  for (var segment = 0u; segment < $(SEGMENTS)u; segment++) {
    let end_block = min((segment + 1u) * segment_blocks, params.num_blocks);
#if NORMED
    var squares = 0.0;
#endif
    for (var block = segment * segment_blocks; block < end_block; block++) {
      workgroupBarrier();
#if FORMAT < 16
      if (index < 192u) {
        let row = min(first_row + index / 3u, num_rows - 1u);
        xs[index] = x[x_row(row) * params.x_stride + block * 3u + index % 3u];
      }
      if (index < $(FORMAT * 16)u) {
        let row = packed + index % 64u;
        let unit = codes[codes_of(row) + (block * $(FORMAT / 4)u + index / 64u) * TILE];
#if FORMAT == 4
        ws[index] = even_codes(unit);
        ws[64u + index] = odd_codes(unit);
#else
        ws[index] = unit;
#endif
      }
      if (index >= 192u) {
        weights_of[index - 192u] = load_scales(scales_of(packed + index - 192u), block);
      }
#else
#repeat t 2
      {
        let item = index + $(256 * t)u;
        let row = min(first_row + item / 8u, num_rows - 1u);
        xs[item] = x[x_row(row) * params.x_stride + block * 8u + item % 8u];
      }
#end
#repeat t FORMAT / 16
      {
        let item = index + $(256 * t)u;
        let unit = codes[codes_of(packed + item % 64u) + (block * $(FORMAT / 4)u + item / 64u) * TILE];
#if FORMAT == 16
        ws[item / 64u * 128u + item % 64u] = first_quad(unit);
        ws[item / 64u * 128u + 64u + item % 64u] = second_quad(unit);
#else
        ws[item] = bitcast<vec4<f32>>(unit);
#endif
      }
#end
#endif
      workgroupBarrier();
#if NORMED
      if (index < 64u) {
        squares += bitcast<f32>(xs[index * 3u + 2u].w);
      }
#endif
#if FORMAT < 16
#repeat i 4
      let low$(i) = ws[lane + $(16 * i)u];
      let high$(i) = ws[64u + lane + $(16 * i)u];
#end
#repeat m 4
      {
        let x_low = xs[(first_m + $(m)u) * 3u];
        let x_high = xs[(first_m + $(m)u) * 3u + 1u];
        let activations = xs[(first_m + $(m)u) * 3u + 2u];
#repeat i 4
        let integers$(i) = vec2<i32>(dot16(low$(i), x_low), dot16(high$(i), x_high));
        acc$(m)_$(i) = add_block(acc$(m)_$(i), integers$(i).x, integers$(i).y, weights_of[lane + $(16 * i)u], activations);
#end
      }
#end
#else
      for (var quad = 0u; quad < 8u; quad++) {
#repeat i 4
        let w$(i) = ws[quad * 64u + lane + $(16 * i)u];
#end
#repeat m 4
        let x$(m) = xs[(first_m + $(m)u) * 8u + quad];
#end
        // Sixteen independent sums: no fma waits for the previous one.
#repeat c 4
#repeat m 4
#repeat i 4
        acc$(m)_$(i) = fma(w$(i)[$(c)], x$(m)[$(c)], acc$(m)_$(i));
#end
#end
#end
      }
#endif
    }
#repeat m 4
#repeat i 4
    // The first segment's sum is not added to 0: 0 + (-0) would lose the sign that linear-vector.wgsl keeps.
    sum$(m)_$(i) = select(sum$(m)_$(i) + acc$(m)_$(i), acc$(m)_$(i), segment == 0u);
    acc$(m)_$(i) = 0.0;
#end
#end
#if NORMED
    all_squares = select(all_squares + squares, squares, segment == 0u);
#endif
  }
#if NORMED
  if (index < 64u) {
    factors[index] = norm_factor(all_squares);
  }
#endif
  // The sums go through workgroup memory, one row per thread at a time: neighbouring threads then store neighbouring columns, and the epilogue
  // appears once in the shader.
  let columns = select(64u, 32u, is_gated());
  for (var m = 0u; m < 4u; m++) {
    let row_sums = vec4<f32>(
#repeat i 4
      select(select(sum0_$(i), sum1_$(i), m == 1u), select(sum2_$(i), sum3_$(i), m == 3u), m > 1u),
#end
    );
    workgroupBarrier();
#if FORMAT < 16
    ws[index] = bitcast<vec4<u32>>(row_sums);
#else
    ws[index] = row_sums;
#endif
    workgroupBarrier();
    for (var item = index; item < 16u * columns; item += 256u) {
      let column = item % columns;
      let row = first_row + item / columns * 4u + m;
      let n = group.x * columns + column;
      var factor = 1.0;
#if NORMED
      factor = factors[item / columns * 4u + m];
#endif
      var result = 0.0;
      if (row < num_rows && n < params.num_outputs) {
        // In a gated matrix, the first tile of 32 packed rows is the gate's and the second is the up projection's.
        let sums = bitcast<vec4<f32>>(ws[item / columns * 16u + column % 16u]);
#if EXPERTS
        result = store(routing[sorted_at(params.max_pairs, row)], n, sums[column / 16u], sums[min(column / 16u + 2u, 3u)], factor);
#else
        result = store(row, n, sums[column / 16u], sums[min(column / 16u + 2u, 3u)], factor);
#endif
      }
#if NEXT
      results[item] = result;
#endif
    }
#if NEXT
    first_result = vec3<u32>(first_row + m, num_rows, group.x * columns);
    quantize_results(4u * columns, index, 256u);
#endif
  }
}
