// Sorts the pairs of a step by expert and cuts them into tiles (routing.wgsl). The order of an expert's pairs varies; it changes no result.
//
//   launch   one workgroup of 256 threads
#include "step.wgsl"

struct SortParams {
  num_experts: u32,
  top_k: u32,
  max_pairs: u32,
  num_rows: u32, // word of the step's header with the number of rows
}

@group(0) @binding(1) var<uniform> params: SortParams;
@group(0) @binding(2) var<storage, read_write> routing: array<u32>;
#include "routing.wgsl"

// The number of pairs of each expert, then the index at which its next pair is stored.
var<workgroup> next: array<atomic<u32>, $(EXPERTS)>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
  for (var i = lane; i < params.num_experts; i += 256u) {
    atomicStore(&next[i], 0u);
  }
  workgroupBarrier();
  let num_pairs = header(params.num_rows) * params.top_k;
  for (var pair = lane; pair < num_pairs; pair += 256u) {
    atomicAdd(&next[routing[pair]], 1u);
  }
  workgroupBarrier();
  if (lane == 0u) {
    var at = 0u;
    var num_tiles = 0u;
    for (var i = 0u; i < params.num_experts; i++) {
      let count = atomicLoad(&next[i]);
      atomicStore(&next[i], at);
      for (var first = 0u; first < count; first += TILE_PAIRS) {
        let tile = tile_at(params.max_pairs, num_tiles);
        routing[tile] = i;
        routing[tile + 1u] = at + first;
        routing[tile + 2u] = min(TILE_PAIRS, count - first);
        num_tiles++;
      }
      at += count;
    }
    routing[num_tiles_at(params.max_pairs)] = num_tiles;
  }
  workgroupBarrier();
  for (var pair = lane; pair < num_pairs; pair += 256u) {
    routing[sorted_at(params.max_pairs, atomicAdd(&next[routing[pair]], 1u))] = pair;
  }
}
