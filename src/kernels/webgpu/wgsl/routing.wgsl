// The routing of a step's rows to experts: the layout of one buffer, in words. A pair is a row and one of its experts; pair = row * top_k + k.
//
//   [0 * max_pairs]  expert of each pair, the best of a row first
//   [1 * max_pairs]  f32 weight of each pair
//   [2 * max_pairs]  pairs sorted by expert
//   [3 * max_pairs]  number of tiles, then 3 words per tile of at most TILE_PAIRS sorted pairs of one expert: expert, first, count
const TILE_PAIRS = 64u;

fn weight_of(max_pairs: u32, pair: u32) -> u32 {
  return max_pairs + pair;
}

fn sorted_at(max_pairs: u32, index: u32) -> u32 {
  return 2u * max_pairs + index;
}

fn num_tiles_at(max_pairs: u32) -> u32 {
  return 3u * max_pairs;
}

fn tile_at(max_pairs: u32, tile: u32) -> u32 {
  return 3u * max_pairs + 1u + 3u * tile;
}
