// Lists the z of a row's tokens in the bins that contain its thresholds, in any order; see filter-io.wgsl.
//
//   launch   x = chunks, y = sample rows; workgroup = 256 threads
#include "filter-io.wgsl"
#include "filter-range.wgsl"

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = params.first_row + group.y;
  let spec = load_spec(row);
  if ((spec.flags & FLAG_FILTER) == 0u) {
    return;
  }
  let range = find_range(row, spec, lane);
  let maximum = maximum_of(row);
  let end = min((group.x + 1u) * params.chunk, params.vocab);
  for (var token = group.x * params.chunk + lane; token < end; token += 256u) {
    let z = z_of(row, token, spec, maximum);
    let bin = bin_of(z);
    if (z > BANNED_LOGIT && bin >= range.first && bin <= range.last) {
      let slot = atomicAdd(&filters[filter_at(row) + LIST_LENGTH], 1u);
      if (slot < LIST_CAPACITY) {
        atomicStore(&filters[filter_at(row) + LIST + slot], bitcast<u32>(z));
      }
    }
  }
}
