// Counts a row's tokens by bin and sums their masses; see filter-io.wgsl.
//
//   launch   x = chunks, y = sample rows; workgroup = 256 threads
#include "filter-io.wgsl"

var<workgroup> bins: array<atomic<u32>, 768>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = params.first_row + group.y;
  let spec = load_spec(row);
  if ((spec.flags & FLAG_FILTER) == 0u) {
    return;
  }
  let maximum = maximum_of(row);
  for (var word = lane; word < 3u * BINS; word += 256u) {
    atomicStore(&bins[word], 0u);
  }
  workgroupBarrier();
  let end = min((group.x + 1u) * params.chunk, params.vocab);
  for (var token = group.x * params.chunk + lane; token < end; token += 256u) {
    let z = z_of(row, token, spec, maximum);
    if (z > BANNED_LOGIT) {
      let at = bin_of(z) * 3u;
      let own = mass_of(z);
      atomicAdd(&bins[at], 1u);
      atomicAdd(&bins[at + 1u], own & 0xfffu);
      atomicAdd(&bins[at + 2u], own >> 12u);
    }
  }
  workgroupBarrier();
  for (var word = lane; word < 3u * BINS; word += 256u) {
    let amount = atomicLoad(&bins[word]);
    if (amount > 0u) {
      atomicAdd(&filters[filter_at(row) + word], amount);
    }
  }
}
