// What the three kernels share that find the thresholds of top-k and top-p with many workgroups per row:
//
//   sample-bins       counts a row's tokens in 256 bins of z and sums the tokens' masses
//   sample-gather     lists the tokens of the bins that must contain a threshold
//   sample-threshold  finds the threshold among the listed tokens, or among all tokens where the list is too short
//
// z = (logit - maximum) / temperature; the mass of a token is e^z. z is never positive, so the bits of |z| order tokens from the most likely down.
// A bin is an eighth of an octave of |z|, from 2^-20 to 2^12. Masses are fixed-point multiples of 2^-24 in two words (the low 12 bits and the rest),
// so that their sums are exact in any order.
#include "sample-io.wgsl"

// A row of `filters`: [256][count, mass low, mass high], length of the list, threshold, the list.
const BINS = 256u;
const LIST_LENGTH = 768u;

fn filter_at(row: u32) -> u32 {
  return row * FILTER_WORDS;
}

// The largest logit of a row, as sample-max.wgsl found it.
fn maximum_of(row: u32) -> f32 {
  var maximum = BANNED_LOGIT;
  for (var i = 0u; i < params.num_chunks; i++) {
    maximum = max(maximum, bitcast<f32>(maxima[(row * params.num_chunks + i) * 2u]));
  }
  return maximum;
}

fn z_of(row: u32, token: u32, spec: Spec, maximum: f32) -> f32 {
  let value = value_of(row, token, spec.flags);
  return select((value - maximum) * spec.inverse_temperature, BANNED_LOGIT, value <= BANNED_LOGIT);
}

fn bin_of(z: f32) -> u32 {
  let octave = (bitcast<u32>(z) & 0x7fffffffu) >> 20u;
  return min(octave - min(octave, 856u), BINS - 1u);
}

fn mass_of(z: f32) -> u32 {
  return u32(exp(z) * 16777216.0 + 0.5);
}

fn mass(low: u32, high: u32) -> f32 {
  return f32(high) * 4096.0 + f32(low);
}
