// The largest value of each chunk of a row's adjusted and masked logits, and the lowest token that has it. DRAW: instead, the largest z + Gumbel
// noise of the tokens that pass the filters, a sample of their softmax (the Gumbel-max trick). Greedy rows use the result of the first pass.
//
//   launch   x = chunks, y = sample rows; workgroup = WS threads
#include "sample-io.wgsl"
#include "sampling-math.wgsl"
#include "best.wgsl"

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = params.first_row + group.y;
  let spec = load_spec(row);
#if DRAW
  if ((spec.flags & FLAG_GREEDY) != 0u) {
    return;
  }
  var maximum = BANNED_LOGIT;
  for (var i = 0u; i < params.num_chunks; i++) {
    maximum = max(maximum, bitcast<f32>(maxima[(row * params.num_chunks + i) * 2u]));
  }
  var threshold = BANNED_LOGIT;
  if ((spec.flags & FLAG_FILTER) != 0u) {
    threshold = bitcast<f32>(atomicLoad(&filters[row * FILTER_WORDS + THRESHOLD]));
  }
#endif
  var best = BANNED_LOGIT;
  var best_token = 0xffffffffu;
  let end = min((group.x + 1u) * params.chunk, params.vocab);
  for (var token = group.x * params.chunk + lane; token < end; token += $(WS)u) {
    var value = value_of(row, token, spec.flags);
#if DRAW
    if (value <= BANNED_LOGIT) {
      continue;
    }
    value = (value - maximum) * spec.inverse_temperature;
    // The noise never exceeds 23: a token that is further below the best value cannot win.
    if (value < threshold || value + 23.0 < best) {
      continue;
    }
    value += gumbel(mix(mix(token ^ spec.key0) ^ spec.key1));
#endif
    if (value > best) {
      best = value;
      best_token = token;
    }
  }
  find_best(lane, best, best_token);
  if (lane == 0u) {
#if DRAW
    let at = ((row + header(NUM_SAMPLE_ROWS)) * params.num_chunks + group.x) * 2u;
#else
    let at = (row * params.num_chunks + group.x) * 2u;
#endif
    maxima[at] = bitcast<u32>(best_values[0]);
    maxima[at + 1u] = best_tokens[0];
  }
}
