// Paged attention for software adapters: one subgroup a workgroup, no barrier, no workgroup memory.
//
//   q, out   f32 [rows, numHeads D]
//   kv       kv-layout.wgsl
//   launch   x = items, y = KV heads; workgroup = one subgroup of LANES
//
// The whole query group of a KV head (G heads) and TM rows share each word of K and V. Scores: a lane is a token, q comes by broadcast from
// the lanes that hold it. Values: a lane is 8 dims, the weights come by broadcast from the lanes that computed them.
enable subgroups;
diagnostic(off, subgroup_uniformity);
#include "attention-io.wgsl"

@compute @workgroup_size($(LANES))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let item = load_item(group.x);
  let kv_head = group.y;
#repeat m TM
  let position$(m) = position_of(item, $(m)u);
  let row$(m) = item.row + min($(m)u, item.num_rows - 1u);
#repeat h G
#repeat r (D / 4 + LANES - 1) / LANES
  let q$(m)_$(h)_$(r) = q[row$(m) * (params.q_stride >> 2u) + (kv_head * $(G)u + $(h)u) * $(D / 4)u + min($(r * LANES)u + lane, $(D / 4 - 1)u)] * params.scale;
#end
  var all_max$(m)_$(h) = EMPTY_MAX;
  var all_sum$(m)_$(h) = 0.0;
#repeat c (D / 8 + LANES - 1) / LANES
  var all_low$(m)_$(h)_$(c) = vec4<f32>(0.0);
  var all_high$(m)_$(h)_$(c) = vec4<f32>(0.0);
#end
#end
#end
  let last = position$(TM - 1);
  let first = first_visible(position0);
  for (var split = item.first_split; split < item.end_split; split++) {
#repeat m TM
#repeat h G
    var max$(m)_$(h) = EMPTY_MAX;
    var sum$(m)_$(h) = 0.0;
#repeat c (D / 8 + LANES - 1) / LANES
    var low$(m)_$(h)_$(c) = vec4<f32>(0.0);
    var high$(m)_$(h)_$(c) = vec4<f32>(0.0);
#end
#end
#end
    let first_tile = max(split * $(SPLIT)u, first) / $(LANES)u;
    let end_tile = min((split + 1u) * $(SPLIT)u, last + 1u);
    for (var tile = first_tile; tile * $(LANES)u < end_tile; tile++) {
      let start = tile * $(LANES)u;
      let block = u32(step[item.table + start / $(BLOCK)u]);
      let offset = start % $(BLOCK)u;
      let token = start + lane;
#repeat m TM
#repeat h G
      var score$(m)_$(h) = 0.0;
#end
#end
#repeat c D / 8
      {
        let key = kv[k_at(block, kv_head, $(c)u, offset + lane)];
#repeat w 4
        let pair$(w) = unpack2x16float(key[$(w)]);
        let k$(2 * w) = pair$(w).x;
        let k$(2 * w + 1) = pair$(w).y;
#end
#repeat m TM
#repeat h G
#repeat e 8
        score$(m)_$(h) = fma(k$(e), subgroupBroadcast(q$(m)_$(h)_$((2 * c + e / 4) / LANES)[$(e % 4)], $((2 * c + e / 4) % LANES)u), score$(m)_$(h));
#end
#end
#end
      }
#end
#repeat m TM
#repeat h G
      {
        let visible = is_visible(token, position$(m));
        let score = select(EMPTY_MAX, cap(score$(m)_$(h)), visible);
        let new_max = max(max$(m)_$(h), subgroupMax(score));
        let factor = exp(max$(m)_$(h) - new_max);
        max$(m)_$(h) = new_max;
        // From here on the score is the token's weight.
        score$(m)_$(h) = select(0.0, exp(score - new_max), visible);
        sum$(m)_$(h) = fma(sum$(m)_$(h), factor, score$(m)_$(h));
#repeat c (D / 8 + LANES - 1) / LANES
        low$(m)_$(h)_$(c) *= factor;
        high$(m)_$(h)_$(c) *= factor;
#end
      }
#end
#end
#repeat t LANES
#repeat c (D / 8 + LANES - 1) / LANES
      {
        let value = kv[v_at(block, kv_head, offset + $(t)u, min($(c * LANES)u + lane, $(D / 8 - 1)u))];
        let low = vec4<f32>(unpack2x16float(value.x), unpack2x16float(value.y));
        let high = vec4<f32>(unpack2x16float(value.z), unpack2x16float(value.w));
#repeat m TM
#repeat h G
        {
          let weight = vec4<f32>(subgroupBroadcast(score$(m)_$(h), $(t)u));
          low$(m)_$(h)_$(c) = fma(weight, low, low$(m)_$(h)_$(c));
          high$(m)_$(h)_$(c) = fma(weight, high, high$(m)_$(h)_$(c));
        }
#end
#end
      }
#end
#end
    }
#repeat m TM
#repeat h G
    {
      var total = 0.0;
#repeat l LANES
      total += subgroupBroadcast(sum$(m)_$(h), $(l)u);
#end
      let new_max = max(all_max$(m)_$(h), max$(m)_$(h));
      let old_factor = exp(all_max$(m)_$(h) - new_max);
      let factor = exp(max$(m)_$(h) - new_max);
      all_max$(m)_$(h) = new_max;
      all_sum$(m)_$(h) = all_sum$(m)_$(h) * old_factor + total * factor;
#repeat c (D / 8 + LANES - 1) / LANES
      all_low$(m)_$(h)_$(c) = all_low$(m)_$(h)_$(c) * old_factor + low$(m)_$(h)_$(c) * factor;
      all_high$(m)_$(h)_$(c) = all_high$(m)_$(h)_$(c) * old_factor + high$(m)_$(h)_$(c) * factor;
#end
    }
#end
#end
  }
#repeat m TM
  if ($(m)u < item.num_rows) {
#repeat h G
    {
      let head = kv_head * $(G)u + $(h)u;
#repeat c (D / 8 + LANES - 1) / LANES
      if ($(c * LANES)u + lane < $(D / 8)u) {
        let d = ($(c * LANES)u + lane) * 8u;
        if (item.partial < 0) {
          let at = row$(m) * params.out_stride + head * $(D)u + d;
#repeat e 4
          out[at + $(e)u] = all_low$(m)_$(h)_$(c)[$(e)] / all_sum$(m)_$(h);
          out[at + $(4 + e)u] = all_high$(m)_$(h)_$(c)[$(e)] / all_sum$(m)_$(h);
#end
        } else {
          let at = (u32(item.partial) * params.num_kv_heads * $(G)u + head) * $(D + 2)u + d;
#repeat e 4
          partials[at + $(e)u] = all_low$(m)_$(h)_$(c)[$(e)];
          partials[at + $(4 + e)u] = all_high$(m)_$(h)_$(c)[$(e)];
#end
        }
      }
#end
      if (item.partial >= 0 && lane == 0u) {
        let at = (u32(item.partial) * params.num_kv_heads * $(G)u + head) * $(D + 2)u + $(D)u;
        partials[at] = all_max$(m)_$(h);
        partials[at + 1u] = all_sum$(m)_$(h);
      }
    }
#end
  }
#end
}
