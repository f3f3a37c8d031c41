// Combines the splits of single-row items, in order, and divides by the sum of weights.
//
//   partials f32 [partial, head, D + 2]: weighted sum, maximum, sum of weights
//   launch   x = rows that were split, y = heads; workgroup = WS threads over the dims
#include "attention-io.wgsl"

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  // [row, first partial, number of partials]
  let entry = header(ATTENTION_ROWS) + group.x * 3u;
  let row = u32(step[entry]);
  let first = u32(step[entry + 1u]);
  let count = u32(step[entry + 2u]);
  let head = group.y;
  for (var d = lane; d < $(D)u; d += $(WS)u) {
    var all_max = EMPTY_MAX;
    var all_sum = 0.0;
    var value = 0.0;
    for (var i = 0u; i < count; i++) {
      let at = ((first + i) * groups.y + head) * $(D + 2)u;
      let max_of_split = partials[at + $(D)u];
      let new_max = max(all_max, max_of_split);
      let old_factor = exp(all_max - new_max);
      let factor = exp(max_of_split - new_max);
      all_max = new_max;
      all_sum = all_sum * old_factor + partials[at + $(D + 1)u] * factor;
      value = value * old_factor + partials[at + d] * factor;
    }
    out[row * params.out_stride + head * $(D)u + d] = value / all_sum;
  }
}
