// The largest value in a workgroup of WS threads, and the lowest token that has it.
var<workgroup> best_values: array<f32, $(WS)>;
var<workgroup> best_tokens: array<u32, $(WS)>;

// Leaves the winner in best_values[0] and best_tokens[0].
fn find_best(lane: u32, value: f32, token: u32) {
  best_values[lane] = value;
  best_tokens[lane] = token;
  workgroupBarrier();
  for (var half = $(WS / 2)u; half > 0u; half >>= 1u) {
    if (lane < half) {
      let other = best_values[lane + half];
      let other_token = best_tokens[lane + half];
      if (other > best_values[lane] || (other == best_values[lane] && other_token < best_tokens[lane])) {
        best_values[lane] = other;
        best_tokens[lane] = other_token;
      }
    }
    workgroupBarrier();
  }
}
