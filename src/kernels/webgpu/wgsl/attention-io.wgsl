// Bindings and the item list that the attention kernels share.
//
// An item is up to TM rows of one sequence and a range of splits. A split is SPLIT tokens, aligned to absolute positions. It is reduced by online
// softmax (https://arxiv.org/abs/1805.02867) over tiles, which are aligned to absolute positions too. The splits are then combined in order.
//   prefill  one item walks all splits of its rows and finishes the rows
//   decode   one item per split: it leaves its weighted sum, maximum and sum of weights to attention-reduce.wgsl
// Both take the same steps in the same order, so the bits of a row do not depend on the path. A tile or split that is masked entirely for a row
// changes nothing: its weights are 0, and the factor of the earlier sum is exp(0) = 1.
#include "step.wgsl"

struct AttentionParams {
  num_kv_heads: u32,
  q_stride: u32,
  out_stride: u32,
  v_base: u32,
  window: u32, // 0: none
  first_item: u32, // 0: single-row items, 1: the items after them
  scale: f32,
  softcap: f32, // 0: none
  bidirectional: u32, // rows see the rows after them too
  scale_base: u32,
  has_sinks: u32,
  plan: u32, // first word of this layer's attention plan in the step's header
  skipped_items: u32, // items before those of this dispatch
  reach: u32, // the bias clamps distances to -reach .. reach
  num_buckets: u32, // of a disentangled bias
  positions: u32, // word of the step's header with the offset of the rows' positions
}

@group(0) @binding(1) var<uniform> params: AttentionParams;
@group(0) @binding(2) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> kv: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read_write> partials: array<f32>;
@group(0) @binding(6) var<storage, read> sinks: array<f32>; // [heads] one more logit for each head's softmax
#if BIAS
@group(0) @binding(7) var<storage, read> distances: array<f32>; // BIAS 1: [heads, 2 reach + 1] biases, 2: [2 reach + 1] buckets
@group(0) @binding(8) var<storage, read> relative_scores: array<f32>; // [rows, 2, heads, num_buckets]
#endif
#if NEXT
@group(0) @binding(7) var<storage, read_write> quantized: array<u32>; // the rows of out, see quantize-results.wgsl
#endif

#include "kv-layout.wgsl"

#if KV_Q8
fn codes(word: u32) -> vec4<f32> {
  let bits = bitcast<i32>(word);
  return vec4<f32>(vec4<i32>(bits << 24u, bits << 16u, bits << 8u, bits) >> vec4<u32>(24u));
}

fn scale_of(block: u32, kv_head: u32, side: u32, token: u32) -> f32 {
  let word = scale_at(block, kv_head, side, token);
  return bitcast<f32>(kv[word >> 2u][word & 3u]);
}
#endif

const ITEM_WORDS = 7u;
const EMPTY_MAX = -1e30;

struct Item {
  row: u32,
  num_rows: u32,
  table: u32, // index into step of the sequence's block table
  first_split: u32,
  end_split: u32,
  partial: i32, // index of the partial result; -1: finish the rows here
  end_position: u32, // position of the sequence's last row in the step
}

fn load_item(index: u32) -> Item {
  let first = params.first_item * header(params.plan + NUM_SINGLE_ITEMS) + params.skipped_items;
  let at = header(params.plan + ATTENTION_ITEMS) + (first + index) * ITEM_WORDS;
  return Item(
    u32(step[at]),
    u32(step[at + 1u]),
    header(BLOCK_TABLES) + u32(step[at + 2u]) * header(TABLE_STRIDE),
    u32(step[at + 3u]),
    u32(step[at + 4u]),
    step[at + 5u],
    u32(step[at + 6u]),
  );
}

fn position_of(item: Item, m: u32) -> u32 {
  return u32(step[header(params.positions) + item.row + min(m, item.num_rows - 1u)]);
}

// Position of the last token that a row sees.
fn last_visible(item: Item, position: u32) -> u32 {
  if (params.bidirectional == 0u) {
    return position;
  }
  return select(item.end_position, min(item.end_position, position + params.window - 1u), params.window > 0u);
}

fn is_visible(item: Item, token: u32, position: u32) -> bool {
  return token <= last_visible(item, position) && (params.window == 0u || token + params.window > position);
}

fn first_visible(position: u32) -> u32 {
  return select(0u, position + 1u - params.window, params.window > 0u && position >= params.window);
}

// The sum of a head's weights, including its sink's. `max_score`: the maximum that was subtracted from the scores.
fn total_weight(sum: f32, max_score: f32, head: u32) -> f32 {
  if (params.has_sinks != 0u) {
    return sum + exp(sinks[head] - max_score);
  }
  return sum;
}

// The bias for the score of `token`, seen from the row `row` at `position`.
fn bias_of(head: u32, row: u32, position: u32, token: u32) -> f32 {
#if BIAS == 1
  let away = clamp(i32(token) - i32(position), -i32(params.reach), i32(params.reach));
  return distances[head * (2u * params.reach + 1u) + u32(away + i32(params.reach))];
#else
#if BIAS == 2
  let away = i32(token) - i32(position);
  let bucket = u32(distances[u32(clamp(away, -i32(params.reach), i32(params.reach)) + i32(params.reach))]);
  let place = head * params.num_buckets + bucket;
  let width = params.num_kv_heads * $(G * PARTS_OF_GROUP)u * params.num_buckets;
  // With this bias, a step holds whole sequences: rows are as far apart as positions.
  let token_row = u32(i32(row) + away);
  return relative_scores[row * 2u * width + place] + relative_scores[(token_row * 2u + 1u) * width + place];
#else
  return 0.0;
#endif
#endif
}

fn cap(score: f32) -> f32 {
  if (params.softcap > 0.0) {
    return params.softcap * tanh(clamp(score / params.softcap, -10.0, 10.0));
  }
  return score;
}
