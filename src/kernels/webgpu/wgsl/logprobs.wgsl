// Log-probability and rank of one token per row, and the topN most likely tokens of the row, from raw logits.
//
//   results  per row: logprob, rank, topN tokens, topN log-probabilities (MAX_TOP slots each)
//   launch   x = rows; workgroup = WS threads. SCORE: the tokens are the step's targets, else those that were just sampled
#include "sample-io.wgsl"

const MAX_TOP = 20u;

var<workgroup> values: array<f32, $(WS)>;
var<workgroup> tokens: array<u32, $(WS)>;
var<workgroup> ranks: array<u32, $(WS)>;
var<workgroup> chosen_value: f32;
var<workgroup> chosen_token: u32;

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = params.first_row + group.x;
#if SCORE
  let entry = header(SCORE_TARGETS) + row * 2u;
  let token = u32(step[entry]);
  let top = u32(step[entry + 1u]);
  let result = header(SCORE_RESULTS) + row * RESULT_WORDS;
#else
  let spec = load_spec(row);
  if (spec.logprobs < 0) {
    return;
  }
  let token = u32(sampled[header(CURRENT_TOKENS) + row]);
  let top = u32(spec.logprobs);
  let result = spec.result;
#endif
  let base = group.x * params.vocab;
  let own = logits[base + token];
  // Two passes: first the largest logit and the rank, then the sum of exponentials.
  var largest = BANNED_LOGIT;
  var rank = 0u;
  for (var i = lane; i < params.vocab; i += $(WS)u) {
    let value = logits[base + i];
    largest = max(largest, value);
    rank += select(0u, 1u, value > own);
  }
  values[lane] = largest;
  ranks[lane] = rank;
  workgroupBarrier();
  for (var t = 0u; t < $(WS)u; t++) {
    largest = max(largest, values[t]);
  }
  workgroupBarrier();
  var sum = 0.0;
  for (var i = lane; i < params.vocab; i += $(WS)u) {
    sum += exp(logits[base + i] - largest);
  }
  values[lane] = sum;
  workgroupBarrier();
  var total = 0.0;
  var total_rank = 1u;
  for (var t = 0u; t < $(WS)u; t++) {
    total += values[t];
    total_rank += ranks[t];
  }
  let normalizer = largest + log(total);
  if (lane == 0u) {
    results[result] = bitcast<u32>(own - normalizer);
    results[result + 1u] = total_rank;
    chosen_value = 3e38;
    chosen_token = 0u;
  }
  // Each round finds the largest logit after the one found last; equal logits are in ascending order of token.
  for (var round = 0u; round < top; round++) {
    workgroupBarrier();
    let last_value = chosen_value;
    let last_token = chosen_token;
    var best = -3e38;
    var best_token = 0xffffffffu;
    for (var i = lane; i < params.vocab; i += $(WS)u) {
      let value = logits[base + i];
      let is_behind = value < last_value || (value == last_value && i > last_token);
      if (is_behind && value > best) {
        best = value;
        best_token = i;
      }
    }
    values[lane] = best;
    tokens[lane] = best_token;
    workgroupBarrier();
    if (lane == 0u) {
      for (var i = 1u; i < $(WS)u; i++) {
        if (values[i] > best || (values[i] == best && tokens[i] < best_token)) {
          best = values[i];
          best_token = tokens[i];
        }
      }
      chosen_value = best;
      chosen_token = best_token;
      results[result + 2u + round] = best_token;
      results[result + 2u + MAX_TOP + round] = bitcast<u32>(best - normalizer);
    }
  }
}
