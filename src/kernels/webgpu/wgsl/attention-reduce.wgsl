// Combines the splits of single-row items and divides by the sum of weights, as in Flash-Decoding.
//
//   partials f32 [partial, head, D + 2]: weighted sum, maximum, sum of weights
//   launch   x = rows that were split, y = heads; workgroup = WS threads
//
// Two levels. First, the factors of CHUNK splits are computed in parallel, one thread per split: they depend on the maxima alone, and a maximum is
// the same in any order. Then each thread adds the splits of its dims in order, with the same steps as an item that walks all its splits.
#include "attention-io.wgsl"

const CHUNK = $(WS)u;

var<workgroup> maxima: array<f32, $(WS)>;
var<workgroup> sums: array<f32, $(WS)>;
var<workgroup> old_factors: array<f32, $(WS)>;
var<workgroup> factors: array<f32, $(WS)>;

#if NEXT
var<workgroup> results: array<f32, $(D)>;

var<private> row_and_head: vec2<u32>;

fn result_quad(i: u32) -> vec4<f32> {
  return vec4<f32>(results[4u * i], results[4u * i + 1u], results[4u * i + 2u], results[4u * i + 3u]);
}

#include "quantize-results.wgsl"

fn place_of(own: u32) -> Place {
  let block = row_and_head.y * $(D / 32)u + own;
  return Place(block, (row_and_head.x * (params.out_stride >> 5u) + block) * RECORD_WORDS, true);
}
#endif

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  // [row, first partial, number of partials]
  let entry = header(params.plan + ATTENTION_ROWS) + group.x * 3u;
  let row = u32(step[entry]);
  let first = u32(step[entry + 1u]);
  let count = u32(step[entry + 2u]);
  let head = group.y;
  var all_max = EMPTY_MAX;
  var all_sum = 0.0;
#repeat n (D + WS - 1) / WS
  var value$(n) = 0.0;
#end
  for (var start = 0u; start < count; start += CHUNK) {
    let length = min(CHUNK, count - start);
    workgroupBarrier();
    if (lane < length) {
      let at = ((first + start + lane) * groups.y + head) * $(D + 2)u;
      maxima[lane] = partials[at + $(D)u];
      sums[lane] = partials[at + $(D + 1)u];
    }
    workgroupBarrier();
    var max_before = all_max;
    for (var i = 0u; i < min(lane, length); i++) {
      max_before = max(max_before, maxima[i]);
    }
    if (lane < length) {
      let new_max = max(max_before, maxima[lane]);
      old_factors[lane] = exp(max_before - new_max);
      factors[lane] = exp(maxima[lane] - new_max);
    }
    workgroupBarrier();
    for (var i = 0u; i < length; i++) {
      let at = ((first + start + i) * groups.y + head) * $(D + 2)u;
      all_max = max(all_max, maxima[i]);
      all_sum = all_sum * old_factors[i] + sums[i] * factors[i];
#repeat n (D + WS - 1) / WS
      value$(n) = value$(n) * old_factors[i] + partials[at + min($(n * WS)u + lane, $(D - 1)u)] * factors[i];
#end
    }
  }
  let total = total_weight(all_sum, all_max, head);
#repeat n (D + WS - 1) / WS
  if ($(n * WS)u + lane < $(D)u) {
    let result$(n) = value$(n) / total;
    out[row * params.out_stride + head * $(D)u + $(n * WS)u + lane] = result$(n);
#if NEXT
    results[$(n * WS)u + lane] = result$(n);
#endif
  }
#end
#if NEXT
  row_and_head = vec2<u32>(row, head);
  quantize_results($(D / 4)u, lane, $(WS)u);
#endif
}
