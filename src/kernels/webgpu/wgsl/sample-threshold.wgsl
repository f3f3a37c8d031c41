// The threshold on z of a row with top-k, top-p or min-p: the largest of the three (kernels/sampling.ts, step 5). It is found by radix selection over
// the bits of |z| of the candidates, 8 bits per pass: the counts or masses of the 256 digits are summed in workgroup memory, then one thread walks
// the digits from the most likely end.
//
//   launch   x = sample rows; workgroup = 256 threads. Leaves the row's bins and list empty for the next step.
#include "filter-io.wgsl"
#include "filter-range.wgsl"

var<workgroup> digits: array<atomic<u32>, 768>; // [256][count, mass low, mass high]
var<workgroup> prefix: u32;
var<workgroup> reached: f32;
var<workgroup> goal: f32;

struct Candidates {
  row: u32,
  spec: Spec,
  maximum: f32,
  is_listed: bool, // the candidates are the listed tokens; else all tokens
  count: u32,
}

fn candidate(pool: Candidates, index: u32) -> f32 {
  if (pool.is_listed) {
    return bitcast<f32>(atomicLoad(&filters[filter_at(pool.row) + LIST + index]));
  }
  return z_of(pool.row, index, pool.spec, pool.maximum);
}

fn digit_amount(digit: u32, by_mass: bool) -> f32 {
  if (by_mass) {
    return mass(atomicLoad(&digits[digit * 3u + 1u]), atomicLoad(&digits[digit * 3u + 2u]));
  }
  return f32(atomicLoad(&digits[digit * 3u]));
}

// The largest z for which `base` plus the count (or, with `by_mass`, the mass) of the candidates at or above z reaches `target_value`. Candidates
// below floor_z are ignored. `is_share`: `target_value` is a share of the candidates' mass.
fn select_z(pool: Candidates, by_mass: bool, target_value: f32, is_share: bool, base: f32, floor_z: f32, lane: u32) -> f32 {
  if (lane == 0u) {
    prefix = 0u;
    reached = base;
    goal = target_value;
  }
  for (var pass_index = 0u; pass_index < 4u; pass_index++) {
    let shift = 24u - 8u * pass_index;
    workgroupBarrier();
    for (var word = lane; word < 768u; word += 256u) {
      atomicStore(&digits[word], 0u);
    }
    workgroupBarrier();
    for (var i = lane; i < pool.count; i += 256u) {
      let z = candidate(pool, i);
      if (z <= BANNED_LOGIT || z < floor_z) {
        continue;
      }
      let key = bitcast<u32>(z) & 0x7fffffffu;
      // The first pass has no higher digits to compare, and WGSL does not define a shift by 32.
      if (pass_index > 0u && (key >> (shift + 8u)) != (prefix >> (shift + 8u))) {
        continue;
      }
      let at = ((key >> shift) & 255u) * 3u;
      atomicAdd(&digits[at], 1u);
      if (by_mass) {
        let own = mass_of(z);
        atomicAdd(&digits[at + 1u], own & 0xfffu);
        atomicAdd(&digits[at + 2u], own >> 12u);
      }
    }
    workgroupBarrier();
    if (lane == 0u) {
      if (is_share && pass_index == 0u) {
        var total = 0.0;
        for (var digit = 0u; digit < 256u; digit++) {
          total += digit_amount(digit, true);
        }
        goal = target_value * total;
      }
      var chosen = 0u;
      for (var digit = 0u; digit < 256u; digit++) {
        if (atomicLoad(&digits[digit * 3u]) == 0u) {
          continue;
        }
        chosen = digit;
        let amount = digit_amount(digit, by_mass);
        if (reached + amount >= goal) {
          break;
        }
        reached += amount;
      }
      prefix |= chosen << shift;
    }
  }
  return -bitcast<f32>(workgroupUniformLoad(&prefix));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = params.first_row + group.x;
  let spec = load_spec(row);
  if ((spec.flags & FLAG_FILTER) == 0u) {
    return;
  }
  let range = find_range(row, spec, lane);
  if (lane == 0u) {
    prefix = atomicLoad(&filters[filter_at(row) + LIST_LENGTH]);
  }
  let length = workgroupUniformLoad(&prefix);
  let is_listed = length <= LIST_CAPACITY;
  let pool = Candidates(row, spec, maximum_of(row), is_listed, select(params.vocab, length, is_listed));
  var threshold = spec.min_z;
  var kth = BANNED_LOGIT;
  let has_top_p = (spec.flags & FLAG_TOP_P) != 0u;
  if (spec.top_k > 0u) {
    let base = select(0.0, range.base, is_listed);
    kth = select_z(pool, false, f32(spec.top_k), false, base, BANNED_LOGIT, lane);
    threshold = max(threshold, kth);
  }
  if (has_top_p) {
    // Without top-k and with listed candidates, find_range has computed the goal. Otherwise it is a share of the candidates' mass.
    let is_known = is_listed && spec.top_k == 0u;
    let target_value = select(spec.top_p, range.goal, is_known);
    threshold = max(threshold, select_z(pool, true, target_value, !is_known, select(0.0, range.base, is_known), kth, lane));
  }
  for (var word = lane; word <= LIST_LENGTH; word += 256u) {
    atomicStore(&filters[filter_at(row) + word], 0u);
  }
  if (lane == 0u) {
    atomicStore(&filters[filter_at(row) + THRESHOLD], bitcast<u32>(threshold));
  }
}
