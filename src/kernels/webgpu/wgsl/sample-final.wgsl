// Finds the best token over a row's chunks: the sampled token. Writes it to `sampled`, where the next step reads it, and to `results` for the host.
//
//   launch   x = sample rows; workgroup = WS threads over the chunks
#include "sample-io.wgsl"
#include "best.wgsl"

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = params.first_row + group.x;
  let spec = load_spec(row);
  let source = select(row + header(NUM_SAMPLE_ROWS), row, (spec.flags & FLAG_GREEDY) != 0u);
  var best = BANNED_LOGIT;
  var best_token = 0xffffffffu;
  for (var i = lane; i < params.num_chunks; i += $(WS)u) {
    let at = (source * params.num_chunks + i) * 2u;
    let value = bitcast<f32>(maxima[at]);
    // A thread visits its chunks in token order: the first of equal values has the lowest token.
    if (value > best) {
      best = value;
      best_token = maxima[at + 1u];
    }
  }
  find_best(lane, best, best_token);
  if (lane == 0u) {
    // Where every token is banned, the result is token 0, as in kernels/sampling.ts.
    let token = select(best_tokens[0], 0u, best_tokens[0] == 0xffffffffu);
    sampled[header(CURRENT_TOKENS) + row] = i32(token);
    results[RESULT_TOKENS + row] = token;
  }
}
