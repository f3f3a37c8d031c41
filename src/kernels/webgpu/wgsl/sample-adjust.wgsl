// Applies a row's repetition penalty and additive adjustments to its logits in place and keeps the raw values; RESTORE puts the raw values back.
// A row may have a pending token: one that the previous step sampled and the host does not know yet. It is adjusted by its own entry if the row has
// one, else by the last entry, which is reserved for it.
//
//   launch   x = sample rows; workgroup = WS threads over the entries, whose tokens are distinct
#include "sample-io.wgsl"

const NO_TOKEN = 0xffffffffu;

#if !RESTORE
var<workgroup> is_listed: u32;

fn adjust(row: u32, spec: Spec, entry: u32, token: u32, is_penalized: bool, delta: f32) {
  let at = row * params.vocab + token;
  var value = logits[at];
  adjustments[entry + 3u] = bitcast<u32>(value);
  if (is_penalized) {
    value = select(value * spec.penalty, value * spec.inverse_penalty, value > 0.0);
  }
  logits[at] = value + delta;
}
#endif

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let spec = load_spec(params.first_row + group.x);
#if RESTORE
  for (var i = lane; i < spec.num_adjustments; i += $(WS)u) {
    let entry = (spec.first_adjustment + i) * 4u;
    let token = adjustments[entry];
    if (token != NO_TOKEN) {
      logits[group.x * params.vocab + token] = bitcast<f32>(adjustments[entry + 3u]);
    }
  }
#else
  var pending = NO_TOKEN;
  if (spec.pending >= 0) {
    pending = u32(sampled[header(PREVIOUS_TOKENS) + u32(spec.pending)]);
  }
  if (lane == 0u) {
    is_listed = 0u;
  }
  workgroupBarrier();
  for (var i = lane; i < spec.num_adjustments; i += $(WS)u) {
    let entry = (spec.first_adjustment + i) * 4u;
    let token = adjustments[entry];
    if (token == NO_TOKEN) {
      continue;
    }
    let is_pending = token == pending;
    if (is_pending) {
      is_listed = 1u;
    }
    let delta = bitcast<f32>(adjustments[entry + select(1u, 2u, is_pending)]);
    adjust(group.x, spec, entry, token, i < spec.num_penalized || is_pending, delta);
  }
  workgroupBarrier();
  if (lane == 0u && spec.pending >= 0 && is_listed == 0u) {
    let entry = (spec.first_adjustment + spec.num_adjustments - 1u) * 4u;
    adjustments[entry] = pending;
    adjust(group.x, spec, entry, pending, true, spec.pending_delta);
  }
#endif
}
