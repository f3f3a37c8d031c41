// Paged attention for software adapters: one subgroup a workgroup, no barrier, no workgroup memory.
//
//   q, out   f32 [rows, numHeads D]
//   kv       kv-layout.wgsl
//   launch   x = items, y = KV heads; workgroup = one subgroup of LANES
//
// The whole query group of a KV head (G heads) and TM rows, V = TM G query vectors, share each word of K and V. Scores: a lane is a token; the
// query vectors' next 8 dims are read side by side and come by broadcast. Values: a lane is 8 dims; the weights come by shuffle from the
// lanes that computed them.
// Tried on llvmpipe (Mesa 25.0): queries held in registers for the whole item take 2 V reads in the text and 10 times the compile time; see
// linear-broadcast.wgsl on the cost of reads.
enable subgroups;
diagnostic(off, subgroup_uniformity);
#include "attention-io.wgsl"

@compute @workgroup_size($(LANES))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let item = load_item(group.x);
  let kv_head = group.y;
  // Register r of a lane holds dims (lane % 2) 4 .. + 3 of a chunk of query vector (r LANES + lane) / 2.
#repeat r (2 * TM * G + LANES - 1) / LANES
  let vector$(r) = min(($(r * LANES)u + lane) >> 1u, $(TM * G - 1)u);
  let q_at$(r) = (item.row + min(vector$(r) / $(G)u, item.num_rows - 1u)) * (params.q_stride >> 2u)
    + (kv_head * $(G)u + vector$(r) % $(G)u) * $(D / 4)u + (lane & 1u);
#end
#repeat m TM
  let position$(m) = position_of(item, $(m)u);
#end
  let last = position$(TM - 1);
  let first = first_visible(position0);
#repeat v TM * G
  var all_max$(v) = EMPTY_MAX;
  var all_sum$(v) = 0.0;
#repeat c (D / 8 + LANES - 1) / LANES
  var all_low$(v)_$(c) = vec4<f32>(0.0);
  var all_high$(v)_$(c) = vec4<f32>(0.0);
#end
#end
  for (var split = item.first_split; split < item.end_split; split++) {
#repeat v TM * G
    var max$(v) = EMPTY_MAX;
    var sum$(v) = 0.0;
#repeat c (D / 8 + LANES - 1) / LANES
    var low$(v)_$(c) = vec4<f32>(0.0);
    var high$(v)_$(c) = vec4<f32>(0.0);
#end
#end
    let first_tile = max(split * $(SPLIT)u, first) / $(LANES)u;
    let end_token = min((split + 1u) * $(SPLIT)u, last + 1u);
    for (var tile = first_tile; tile * $(LANES)u < end_token; tile++) {
      let start = tile * $(LANES)u;
      let block = u32(step[item.table + start / $(BLOCK)u]);
      let offset = start % $(BLOCK)u;
      let token = start + lane;
      let key_at = k_at(block, kv_head, 0u, offset + lane);
      let value_at = v_at(block, kv_head, offset, 0u);
#repeat v TM * G
      var score$(v) = 0.0;
#end
      for (var c = 0u; c < params.num_chunks; c++) {
        let key = kv[key_at + c * $(BLOCK)u];
#repeat r (2 * TM * G + LANES - 1) / LANES
        let query$(r) = q[q_at$(r) + 2u * c];
#end
#repeat e 8
        let k$(e) = unpack2x16float(key[$(e / 2)])[$(e % 2)];
#repeat v TM * G
        score$(v) = fma(k$(e), subgroupBroadcast(query$((2 * v + e / 4) / LANES)[$(e % 4)], $((2 * v + e / 4) % LANES)u), score$(v));
#end
#end
      }
#repeat v TM * G
      {
        let visible = is_visible(token, position$(v / G));
        let score = select(EMPTY_MAX, cap(score$(v) * params.scale), visible);
        let new_max = max(max$(v), subgroupMax(score));
        let factor = exp(max$(v) - new_max);
        max$(v) = new_max;
        // From here on the score is the token's weight.
        score$(v) = select(0.0, exp(score - new_max), visible);
        sum$(v) = fma(sum$(v), factor, score$(v));
#repeat c (D / 8 + LANES - 1) / LANES
        low$(v)_$(c) *= factor;
        high$(v)_$(c) *= factor;
#end
      }
#end
      for (var t = 0u; t < params.tile_tokens; t++) {
#repeat c (D / 8 + LANES - 1) / LANES
        let value$(c) = kv[value_at + t * $(D / 8)u + min($(c * LANES)u + lane, $(D / 8 - 1)u)];
        let value_low$(c) = vec4<f32>(unpack2x16float(value$(c).x), unpack2x16float(value$(c).y));
        let value_high$(c) = vec4<f32>(unpack2x16float(value$(c).z), unpack2x16float(value$(c).w));
#end
#repeat v TM * G
        {
          let weight = vec4<f32>(subgroupShuffle(score$(v), t));
#repeat c (D / 8 + LANES - 1) / LANES
          low$(v)_$(c) = fma(weight, value_low$(c), low$(v)_$(c));
          high$(v)_$(c) = fma(weight, value_high$(c), high$(v)_$(c));
#end
        }
#end
      }
    }
#repeat v TM * G
    {
      var total = 0.0;
#repeat l LANES
      total += subgroupBroadcast(sum$(v), $(l)u);
#end
      let new_max = max(all_max$(v), max$(v));
      let old_factor = exp(all_max$(v) - new_max);
      let factor = exp(max$(v) - new_max);
      all_max$(v) = new_max;
      all_sum$(v) = all_sum$(v) * old_factor + total * factor;
#repeat c (D / 8 + LANES - 1) / LANES
      all_low$(v)_$(c) = all_low$(v)_$(c) * old_factor + low$(v)_$(c) * factor;
      all_high$(v)_$(c) = all_high$(v)_$(c) * old_factor + high$(v)_$(c) * factor;
#end
    }
#end
  }
  var results: array<vec4<f32>, $(TM * G * 2 * ((D / 8 + LANES - 1) / LANES))>;
  var maxima: array<f32, $(TM * G)>;
  var totals: array<f32, $(TM * G)>;
#repeat v TM * G
  maxima[$(v)] = all_max$(v);
  totals[$(v)] = all_sum$(v);
#repeat c (D / 8 + LANES - 1) / LANES
  results[$((v * ((D / 8 + LANES - 1) / LANES) + c) * 2)] = all_low$(v)_$(c);
  results[$((v * ((D / 8 + LANES - 1) / LANES) + c) * 2 + 1)] = all_high$(v)_$(c);
#end
#end
  let num_heads = params.num_kv_heads * $(G)u;
  let end_vector = min(item.num_rows, $(TM)u) * $(G)u;
  for (var v = 0u; v < end_vector; v++) {
    let head = kv_head * $(G)u + v % $(G)u;
    let partial_at = (u32(max(item.partial, 0)) * num_heads + head) * $(D + 2)u;
    // Quads of dims: a lane holds two neighbouring ones for each of its chunks.
    for (var i = 0u; i < params.lane_quads; i++) {
      let d = (i / 2u * $(LANES)u + lane) * 8u + i % 2u * 4u;
      if (d < $(D)u) {
        var value = results[v * $(2 * ((D / 8 + LANES - 1) / LANES))u + i];
        var at = partial_at + d;
        if (item.partial < 0) {
          value /= totals[v];
          at = (item.row + v / $(G)u) * params.out_stride + head * $(D)u + d;
        }
        for (var e = 0u; e < 4u; e++) {
          if (item.partial < 0) {
            out[at + e] = value[e];
          } else {
            partials[at + e] = value[e];
          }
        }
      }
    }
    if (item.partial >= 0 && lane == 0u) {
      partials[partial_at + $(D)u] = maxima[v];
      partials[partial_at + $(D + 1)u] = totals[v];
    }
  }
}
