// The threshold on z of a row with top-k, top-p or min-p: the largest of the three (kernels/sampling.ts, step 5). A radix descent over the
// bits of |z|, 8 at a time: counts or masses of the 256 digits are gathered in workgroup memory, then one thread walks them from the most
// likely end. Masses are fixed point, 2^-24, in two words of 12 and more bits, so that their sums are exact in any order.
//
//   launch   x = sample rows; workgroup = WS threads
#include "sample-io.wgsl"

var<workgroup> counts: array<atomic<u32>, 256>;
var<workgroup> low_sums: array<atomic<u32>, 256>;
var<workgroup> high_sums: array<atomic<u32>, 256>;
var<workgroup> prefix: u32;
var<workgroup> reached: f32;
var<workgroup> goal: f32;

struct Row {
  index: u32,
  flags: u32,
  maximum: f32,
  inverse_temperature: f32,
}

fn z_of(row: Row, token: u32) -> f32 {
  let value = value_of(row.index, token, row.flags);
  return select((value - row.maximum) * row.inverse_temperature, BANNED_LOGIT, value <= BANNED_LOGIT);
}

fn mass_of(z: f32) -> u32 {
  return u32(exp(z) * 16777216.0 + 0.5);
}

// The largest z at which the tokens at or above it, of those at or above floor_z, reach a number (by_mass false: target) or a share
// (by_mass true: target of the total) of them.
fn select_threshold(row: Row, by_mass: bool, target_value: f32, floor_z: f32, lane: u32) -> f32 {
  if (lane == 0u) {
    prefix = 0u;
    reached = 0.0;
    goal = target_value;
  }
  for (var pass_index = 0u; pass_index < 4u; pass_index++) {
    let shift = 24u - 8u * pass_index;
    for (var digit = lane; digit < 256u; digit += $(WS)u) {
      atomicStore(&counts[digit], 0u);
      atomicStore(&low_sums[digit], 0u);
      atomicStore(&high_sums[digit], 0u);
    }
    workgroupBarrier();
    for (var token = lane; token < params.vocab; token += $(WS)u) {
      let z = z_of(row, token);
      if (z <= BANNED_LOGIT || z < floor_z) {
        continue;
      }
      let key = bitcast<u32>(z) & 0x7fffffffu;
      // Shifting by 32 is undefined: the first pass has no higher digits to compare.
      if (pass_index > 0u && (key >> (shift + 8u)) != (prefix >> (shift + 8u))) {
        continue;
      }
      let digit = (key >> shift) & 255u;
      atomicAdd(&counts[digit], 1u);
      if (by_mass) {
        let mass = mass_of(z);
        atomicAdd(&low_sums[digit], mass & 0xfffu);
        atomicAdd(&high_sums[digit], mass >> 12u);
      }
    }
    workgroupBarrier();
    if (lane == 0u) {
      if (by_mass && pass_index == 0u) {
        var low = 0u;
        var high = 0u;
        for (var digit = 0u; digit < 256u; digit++) {
          low += atomicLoad(&low_sums[digit]);
          high += atomicLoad(&high_sums[digit]);
        }
        goal = target_value * (f32(high) * 4096.0 + f32(low));
      }
      var chosen = 0u;
      for (var digit = 0u; digit < 256u; digit++) {
        let count = atomicLoad(&counts[digit]);
        if (count == 0u) {
          continue;
        }
        chosen = digit;
        var amount = f32(count);
        if (by_mass) {
          amount = f32(atomicLoad(&high_sums[digit])) * 4096.0 + f32(atomicLoad(&low_sums[digit]));
        }
        if (reached + amount >= goal) {
          break;
        }
        reached += amount;
      }
      prefix |= chosen << shift;
    }
    workgroupBarrier();
  }
  let found = -bitcast<f32>(workgroupUniformLoad(&prefix));
  return found;
}

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let index = params.first_row + group.x;
  let spec = load_spec(index);
  if ((spec.flags & FLAG_FILTER) == 0u) {
    return;
  }
  var maximum = BANNED_LOGIT;
  for (var i = 0u; i < params.num_chunks; i++) {
    maximum = max(maximum, bitcast<f32>(maxima[(index * params.num_chunks + i) * 2u]));
  }
  let row = Row(index, spec.flags, maximum, spec.inverse_temperature);
  var threshold = spec.min_z;
  var kth = BANNED_LOGIT;
  if (spec.top_k > 0u) {
    kth = select_threshold(row, false, f32(spec.top_k), BANNED_LOGIT, lane);
    threshold = max(threshold, kth);
  }
  if ((spec.flags & FLAG_TOP_P) != 0u) {
    threshold = max(threshold, select_threshold(row, true, spec.top_p, kth, lane));
  }
  if (lane == 0u) {
    thresholds[index] = threshold;
  }
}
