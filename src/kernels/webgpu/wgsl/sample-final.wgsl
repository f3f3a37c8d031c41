// The winner over a row's chunks becomes the sampled token: into the ring that the next step's tokens may refer to, and into the readback.
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
    // A thread's chunks are in token order: the first of equals has the lowest token.
    if (value > best) {
      best = value;
      best_token = maxima[at + 1u];
    }
  }
  find_best(lane, best, best_token);
  if (lane == 0u) {
    // No token where everything is banned: the first one, as kernels/sampling.ts has it.
    let token = select(best_tokens[0], 0u, best_tokens[0] == 0xffffffffu);
    sampled[header(CURRENT_TOKENS) + row] = i32(token);
    results[RESULT_TOKENS + row] = token;
  }
}
