// The winner over a row's chunks becomes the sampled token: into the ring that the next step's tokens may refer to, and into the readback.
//
//   launch   x = sample rows; workgroup = 1 thread
#include "sample-io.wgsl"

@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) group: vec3<u32>) {
  let row = params.first_row + group.x;
  let spec = load_spec(row);
  let source = select(row + header(NUM_SAMPLE_ROWS), row, (spec.flags & FLAG_GREEDY) != 0u);
  var best = BANNED_LOGIT;
  var best_token = 0u;
  for (var i = 0u; i < params.num_chunks; i++) {
    let at = (source * params.num_chunks + i) * 2u;
    let value = bitcast<f32>(maxima[at]);
    // Chunks are in token order: the first of equals has the lowest token.
    if (value > best) {
      best = value;
      best_token = maxima[at + 1u];
    }
  }
  sampled[header(CURRENT_TOKENS) + row] = i32(best_token);
  results[RESULT_TOKENS + row] = best_token;
}
