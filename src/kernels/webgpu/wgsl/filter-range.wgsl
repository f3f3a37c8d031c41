// The bins of a row that contain its thresholds. A workgroup of 256 threads finds them from the counts and masses of sample-bins.wgsl.
var<workgroup> bin_counts: array<f32, 256>;
var<workgroup> bin_masses: array<f32, 256>;
var<workgroup> count_bin: atomic<u32>;
var<workgroup> mass_bin: atomic<u32>;

struct Range {
  first: u32, // bins
  last: u32,
  base: f32, // count or mass of the bins before `first`
  goal: f32, // top-p without top-k: the mass to be reached
}

// Counts are f32: exact to 2^24, more than any vocabulary.
fn find_range(row: u32, spec: Spec, lane: u32) -> Range {
  let at = filter_at(row) + lane * 3u;
  bin_counts[lane] = f32(atomicLoad(&filters[at]));
  bin_masses[lane] = mass(atomicLoad(&filters[at + 1u]), atomicLoad(&filters[at + 2u]));
  if (lane == 0u) {
    atomicStore(&count_bin, BINS - 1u);
    atomicStore(&mass_bin, BINS - 1u);
  }
  // Running sums over the bins.
  for (var step_size = 1u; step_size < BINS; step_size <<= 1u) {
    workgroupBarrier();
    let before = select(0u, lane - step_size, lane >= step_size);
    let count = select(0.0, bin_counts[before], lane >= step_size);
    let amount = select(0.0, bin_masses[before], lane >= step_size);
    workgroupBarrier();
    bin_counts[lane] += count;
    bin_masses[lane] += amount;
  }
  workgroupBarrier();
  let goal = spec.top_p * bin_masses[BINS - 1u];
  if (bin_counts[lane] >= f32(spec.top_k)) {
    atomicMin(&count_bin, lane);
  }
  if (bin_masses[lane] >= goal) {
    atomicMin(&mass_bin, lane);
  }
  workgroupBarrier();
  let by_count = atomicLoad(&count_bin);
  let by_mass = atomicLoad(&mass_bin);
  if (spec.top_k == 0u) {
    return Range(by_mass, by_mass, select(0.0, bin_masses[max(by_mass, 1u) - 1u], by_mass > 0u), goal);
  }
  if ((spec.flags & FLAG_TOP_P) == 0u) {
    return Range(by_count, by_count, select(0.0, bin_counts[max(by_count, 1u) - 1u], by_count > 0u), 0.0);
  }
  // With both filters, top-p takes its share of the mass of the tokens that top-k keeps: all bins up to the top-k threshold are needed.
  return Range(0u, by_count, 0.0, 0.0);
}
