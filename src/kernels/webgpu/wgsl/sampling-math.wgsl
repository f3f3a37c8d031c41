// The arithmetic of kernels/sampling.ts, operation by operation; the sources of the hash and the polynomials are named there.
fn mix(value: u32) -> u32 {
  var x = (value ^ (value >> 16u)) * 0x21f0aaadu;
  x = (x ^ (x >> 15u)) * 0x735a2d97u;
  return x ^ (x >> 15u);
}

fn log1p_small(x: f32) -> f32 {
  var p = 7.0376836292e-2;
  p = p * x + -1.151461031e-1;
  p = p * x + 1.167699874e-1;
  p = p * x + -1.2420140846e-1;
  p = p * x + 1.4249322787e-1;
  p = p * x + -1.6668057665e-1;
  p = p * x + 2.0000714765e-1;
  p = p * x + -2.4999993993e-1;
  p = p * x + 3.3333331174e-1;
  let square = x * x;
  return x + (square * x * p - 0.5 * square);
}

fn log_f32(x: f32) -> f32 {
  let word = bitcast<u32>(x);
  let exponent = bitcast<i32>(word - 0x3f3504f3u) >> 23u;
  let mantissa = bitcast<f32>(word - (bitcast<u32>(exponent) << 23u));
  let e = f32(exponent);
  return (log1p_small(mantissa - 1.0) + e * -2.12194440e-4) + e * 0.693359375;
}

// Standard Gumbel noise from 32 random bits.
fn gumbel(hash: u32) -> f32 {
  // Only the 24 leading bits are kept, so that their conversion to f32 is exact.
  let excess = max(8i - i32(countLeadingZeros(hash)), 0i);
  let kept = (hash >> u32(excess)) << u32(excess);
  let v = select(f32(kept) * 2.3283064365386963e-10, 1.1641532182693481e-10, kept == 0u);
  var exponential: f32;
  if (v < 0.29289) {
    exponential = -log1p_small(-v);
  } else {
    exponential = -log_f32(1.0 - v);
  }
  return -log_f32(exponential);
}
