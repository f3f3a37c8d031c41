// What the two kernels with workgroup memory share: the fused norm. Every sum is taken in the same order by both.
// 1 / rms of ROWS rows of x, from workgroup row `first_row` on: lane l adds up the squares of vectors l, l + 32, ..., and the 32 sums are
// added in order. Ends with the result in inverse_rms.
#if NORM
var<workgroup> partial_squares: array<f32, $(ROWS * 32)>;
var<workgroup> inverse_rms: array<f32, $(ROWS)>;

fn compute_norms(first_row: u32, num_rows: u32, local: u32) {
  let num_vectors = params.num_blocks * 8u;
  for (var item = local; item < $(ROWS * 32)u; item += $(32 * YS)u) {
    let at = source_row(first_row + item / 32u, num_rows) * (params.x_stride >> 2u);
    var sum = 0.0;
    for (var vector = item % 32u; vector < num_vectors; vector += 32u) {
      let value = x[at + vector];
      sum += value.x * value.x + value.y * value.y + (value.z * value.z + value.w * value.w);
    }
    partial_squares[item] = sum;
  }
  workgroupBarrier();
  if (local < $(ROWS)u) {
    var total = 0.0;
    for (var lane = 0u; lane < 32u; lane++) {
      total += partial_squares[local * 32u + lane];
    }
    inverse_rms[local] = 1.0 / sqrt(total * params.inverse_cols + params.eps);
  }
  workgroupBarrier();
}
#endif
