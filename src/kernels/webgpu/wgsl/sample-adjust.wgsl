// Applies a row's repetition penalty and additive adjustments to its logits in place, keeping the raw values; with RESTORE, puts them back.
//
//   launch   x = sample rows; workgroup = WS threads over the entries, whose tokens are distinct
#include "sample-io.wgsl"

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let spec = load_spec(params.first_row + group.x);
  for (var i = lane; i < spec.num_adjustments; i += $(WS)u) {
    let entry = (spec.first_adjustment + i) * 3u;
    let at = group.x * params.vocab + adjustments[entry];
#if RESTORE
    logits[at] = bitcast<f32>(adjustments[entry + 2u]);
#else
    var value = logits[at];
    adjustments[entry + 2u] = bitcast<u32>(value);
    if (i < spec.num_penalized) {
      value = select(value * spec.penalty, value * spec.inverse_penalty, value > 0.0);
    }
    logits[at] = value + bitcast<f32>(adjustments[entry + 1u]);
#endif
  }
}
