// Paged attention (https://arxiv.org/abs/2309.06180).
//
//   q, out   f32 [rows, numHeads D]
//   kv       kv-layout.wgsl
//   launch   x = items, y = KV heads times PARTS_OF_GROUP; workgroup = WS threads
//
// A workgroup takes TM rows and G query heads of one KV head: TM G query vectors. G is the KV head's whole group of query heads or a part of it.
// For each tile of TILE tokens:
//   1. Each thread scores one token against VS query vectors, so that a key is read once for all of them. Neighbouring threads take neighbouring
//      tokens.
//   2. Maxima and weights are computed by runs of 4 tokens, PARTS runs per query vector, and the sums of the runs are added in order.
//   3. Each thread adds the tile's values into the dims that it owns.
// K and V are read directly from memory. The second thread that reads a word finds it in the cache; staging would use the workgroup memory that lets
// several workgroups share a core.
#include "attention-io.wgsl"

const TILE = 32u;
const PARTS = 8u;
const NUM_PARTS = $(TM * G * 8)u;

var<workgroup> queries: array<vec4<f32>, $(TM * G * D / 4)>;
var<workgroup> scores: array<f32, $(TM * G * 32)>;
var<workgroup> part_max: array<f32, $(TM * G * 8)>;
var<workgroup> part_sum: array<f32, $(TM * G * 8)>;
// Online softmax state of each query vector: running maximum, sum of weights, and the factor that rescales the earlier sums at each new maximum.
// First of the current split, then (all_*, old_factor_of) of all splits so far.
var<workgroup> max_of: array<f32, $(TM * G)>;
var<workgroup> sum_of: array<f32, $(TM * G)>;
var<workgroup> next_max_of: array<f32, $(TM * G)>;
var<workgroup> factor_of: array<f32, $(TM * G)>;
var<workgroup> all_max_of: array<f32, $(TM * G)>;
var<workgroup> all_sum_of: array<f32, $(TM * G)>;
var<workgroup> old_factor_of: array<f32, $(TM * G)>;

#if NEXT
var<private> item_rows: vec3<u32>; // first row, number of rows, group of heads

fn result_quad(i: u32) -> vec4<f32> {
  return queries[i];
}

#include "quantize-results.wgsl"

fn place_of(own: u32) -> Place {
  let vector = own / $(D / 32)u;
  let m = vector / $(G)u;
  let block = (item_rows.z * $(G)u + vector % $(G)u) * $(D / 32)u + own % $(D / 32)u;
  return Place(block, ((item_rows.x + m) * (params.out_stride >> 5u) + block) * RECORD_WORDS, m < item_rows.y);
}
#endif

fn add_products(sum: f32, key: vec4<f32>, query: vec4<f32>) -> f32 {
  return fma(key.w, query.w, fma(key.z, query.z, fma(key.y, query.y, fma(key.x, query.x, sum))));
}

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let item = load_item(group.x);
  let kv_head = group.y / $(PARTS_OF_GROUP)u;
  for (var i = lane; i < $(TM * G * D / 4)u; i += $(WS)u) {
    let vector = i / $(D / 4)u;
    let row = item.row + min(vector / $(G)u, item.num_rows - 1u);
    queries[i] = q[row * (params.q_stride >> 2u) + (group.y * $(G)u + vector % $(G)u) * $(D / 4)u + i % $(D / 4)u] * params.scale;
  }
  for (var v = lane; v < $(TM * G)u; v += $(WS)u) {
    all_max_of[v] = EMPTY_MAX;
    all_sum_of[v] = 0.0;
  }
#repeat n (TM * G * D / 4 + WS - 1) / WS
  var all$(n) = vec4<f32>(0.0);
#end
  let last = last_visible(item, position_of(item, $(TM - 1)u));
  let first = first_visible(position_of(item, 0u));
  for (var split = item.first_split; split < item.end_split; split++) {
    workgroupBarrier();
    for (var v = lane; v < $(TM * G)u; v += $(WS)u) {
      max_of[v] = EMPTY_MAX;
      sum_of[v] = 0.0;
    }
#repeat n (TM * G * D / 4 + WS - 1) / WS
    var acc$(n) = vec4<f32>(0.0);
#end
    let first_tile = max(split * $(SPLIT)u, first) / TILE;
    let end_token = min((split + 1u) * $(SPLIT)u, last + 1u);
    for (var tile = first_tile; tile * TILE < end_token; tile++) {
      workgroupBarrier();
      {
        let token = tile * TILE + lane % TILE;
#repeat j VS
        let vector$(j) = min(lane / TILE + $(j * WS / 32)u, $(TM * G - 1)u);
        var dot$(j) = 0.0;
#end
        // Tokens past the last row have no block.
        if (token <= last) {
          let block = u32(step[item.table + token / $(BLOCK)u]);
#if KV_Q8
          for (var c = 0u; c < $(D / UNIT)u; c++) {
            let key = kv[k_at(block, kv_head, c, token % $(BLOCK)u)];
#repeat w 4
            let part$(w) = codes(key[$(w)]);
#end
#repeat j VS
            dot$(j) = add_products(dot$(j), part0, queries[vector$(j) * $(D / 4)u + 4u * c]);
            dot$(j) = add_products(dot$(j), part1, queries[vector$(j) * $(D / 4)u + 4u * c + 1u]);
            dot$(j) = add_products(dot$(j), part2, queries[vector$(j) * $(D / 4)u + 4u * c + 2u]);
            dot$(j) = add_products(dot$(j), part3, queries[vector$(j) * $(D / 4)u + 4u * c + 3u]);
#end
          }
          let key_scale = scale_of(block, kv_head, 0u, token % $(BLOCK)u);
#repeat j VS
          dot$(j) *= key_scale;
#end
#else
          for (var c = 0u; c < $(D / UNIT)u; c++) {
            let key = kv[k_at(block, kv_head, c, token % $(BLOCK)u)];
            let low = vec4<f32>(unpack2x16float(key.x), unpack2x16float(key.y));
            let high = vec4<f32>(unpack2x16float(key.z), unpack2x16float(key.w));
#repeat j VS
            dot$(j) = add_products(dot$(j), low, queries[vector$(j) * $(D / 4)u + 2u * c]);
            dot$(j) = add_products(dot$(j), high, queries[vector$(j) * $(D / 4)u + 2u * c + 1u]);
#end
          }
#endif
        }
#repeat j VS
        {
          // The last vectors may be computed by several threads; one of them stores the score.
          let is_own = lane / TILE + $(j * WS / 32)u < $(TM * G)u;
          let is_seen = token <= last && is_visible(item, token, position_of(item, vector$(j) / $(G)u));
#if BIAS
          if (is_seen) {
            let row = item.row + vector$(j) / $(G)u;
            let head = group.y * $(G)u + vector$(j) % $(G)u;
            dot$(j) += bias_of(head, row, position_of(item, vector$(j) / $(G)u), token);
          }
#endif
          if (is_own) {
            scores[vector$(j) * TILE + lane % TILE] = select(EMPTY_MAX, cap(dot$(j)), is_seen);
          }
        }
#end
      }
      workgroupBarrier();
      for (var i = lane; i < NUM_PARTS; i += $(WS)u) {
        part_max[i] = max(max(scores[4u * i], scores[4u * i + 1u]), max(scores[4u * i + 2u], scores[4u * i + 3u]));
      }
      workgroupBarrier();
      for (var i = lane; i < NUM_PARTS; i += $(WS)u) {
        let vector = i / PARTS;
        var new_max = max_of[vector];
        for (var part = 0u; part < PARTS; part++) {
          new_max = max(new_max, part_max[vector * PARTS + part]);
        }
        if (i % PARTS == 0u) {
          factor_of[vector] = exp(max_of[vector] - new_max);
          next_max_of[vector] = new_max;
        }
        // A masked score is EMPTY_MAX; so is the maximum while no token has been visible, and exp(0) must not count.
#repeat t 4
        let score$(t) = scores[4u * i + $(t)u];
        let weight$(t) = select(0.0, exp(score$(t) - new_max), score$(t) > EMPTY_MAX);
        scores[4u * i + $(t)u] = weight$(t);
#end
        part_sum[i] = (weight0 + weight1) + (weight2 + weight3);
      }
      workgroupBarrier();
      for (var v = lane; v < $(TM * G)u; v += $(WS)u) {
        var sum = part_sum[v * PARTS];
        for (var part = 1u; part < PARTS; part++) {
          sum += part_sum[v * PARTS + part];
        }
        sum_of[v] = fma(sum_of[v], factor_of[v], sum);
        max_of[v] = next_max_of[v];
      }
      let end = min(TILE, last + 1u - tile * TILE);
#repeat n (TM * G * D / 4 + WS - 1) / WS
      {
        let i = $(n * WS)u + lane;
        if (i < $(TM * G * D / 4)u) {
          let vector = i / $(D / 4)u;
          let quad = i % $(D / 4)u;
          var value = acc$(n) * factor_of[vector];
          // Four reads in flight. The words after the last token may belong to another sequence and hold any value: they count as zero.
          for (var t = 0u; t < end; t += 4u) {
            let token = tile * TILE + t;
            let block = u32(step[item.table + token / $(BLOCK)u]);
#if KV_Q8
            let at = v_at(block, kv_head, token % $(BLOCK)u, quad >> 2u);
#repeat k 4
            let word$(k) = kv[at + $(k * D / 16)u][quad & 3u];
            let scale$(k) = scale_of(block, kv_head, 1u, token % $(BLOCK)u + $(k)u);
#end
#repeat k 4
            if (t + $(k)u < end) {
              value = fma(vec4<f32>(scores[vector * TILE + t + $(k)u] * scale$(k)), codes(word$(k)), value);
            }
#end
#else
            let at = v_at(block, kv_head, token % $(BLOCK)u, quad >> 1u);
#repeat k 4
            let words$(k) = kv[at + $(k * D / 8)u];
#end
#repeat k 4
            let pair$(k) = select(vec2<u32>(0u), select(words$(k).xy, words$(k).zw, (quad & 1u) == 1u), t + $(k)u < end);
            let weight$(k) = vec4<f32>(scores[vector * TILE + t + $(k)u]);
            value = fma(weight$(k), vec4<f32>(unpack2x16float(pair$(k).x), unpack2x16float(pair$(k).y)), value);
#end
#endif
          }
          acc$(n) = value;
        }
      }
#end
    }
    workgroupBarrier();
    for (var v = lane; v < $(TM * G)u; v += $(WS)u) {
      let new_max = max(all_max_of[v], max_of[v]);
      old_factor_of[v] = exp(all_max_of[v] - new_max);
      factor_of[v] = exp(max_of[v] - new_max);
      all_max_of[v] = new_max;
      all_sum_of[v] = all_sum_of[v] * old_factor_of[v] + sum_of[v] * factor_of[v];
    }
    workgroupBarrier();
#repeat n (TM * G * D / 4 + WS - 1) / WS
    {
      let vector = min(($(n * WS)u + lane) / $(D / 4)u, $(TM * G - 1)u);
      all$(n) = all$(n) * old_factor_of[vector] + acc$(n) * factor_of[vector];
    }
#end
  }
#repeat n (TM * G * D / 4 + WS - 1) / WS
  {
    let i = $(n * WS)u + lane;
    if (i < $(TM * G * D / 4)u) {
      let vector = i / $(D / 4)u;
      let d = (i % $(D / 4)u) * 4u;
      let m = vector / $(G)u;
      let head = group.y * $(G)u + vector % $(G)u;
      if (m < item.num_rows) {
        if (item.partial < 0) {
          let at = (item.row + m) * params.out_stride + head * $(D)u + d;
          let total = total_weight(all_sum_of[vector], all_max_of[vector], head);
          let result = all$(n) / total;
#repeat e 4
          out[at + $(e)u] = result[$(e)];
#end
#if NEXT
          // The queries are no longer needed.
          queries[i] = result;
#endif
        } else {
          let at = (u32(item.partial) * params.num_kv_heads * $(G * PARTS_OF_GROUP)u + head) * $(D + 2)u;
#repeat e 4
          partials[at + d + $(e)u] = all$(n)[$(e)];
#end
          if (d == 0u) {
            partials[at + $(D)u] = all_max_of[vector];
            partials[at + $(D + 1)u] = all_sum_of[vector];
          }
        }
      }
    }
  }
#end
#if NEXT
  if (item.partial >= 0) {
    return;
  }
  item_rows = vec3<u32>(item.row, item.num_rows, group.y);
  quantize_results($(TM * G * D / 4)u, lane, $(WS)u);
#endif
}
