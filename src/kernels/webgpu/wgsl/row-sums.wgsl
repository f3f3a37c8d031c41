// The sum of all threads' values, added pairwise.
var<workgroup> sums: array<f32, $(WS)>;

fn total(value: f32, lane: u32) -> f32 {
  workgroupBarrier();
  sums[lane] = value;
  workgroupBarrier();
  for (var half = $(WS / 2)u; half > 0u; half >>= 1u) {
    if (lane < half) {
      sums[lane] += sums[lane + half];
    }
    workgroupBarrier();
  }
  return sums[0];
}
