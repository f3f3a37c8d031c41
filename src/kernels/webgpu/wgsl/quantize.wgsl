// Rows as int8, the form that products with quantised weights take. Each block of 32 inputs is a record of 12 words: 8 of codes, 4 of numbers.
//
//   codes    code = nearest(v * 127 / max |v|), as in cpu/assembly/prepare.ts; 4 codes per word, in order. With NIBBLES (4-bit weights, which a
//            mask and a shift unpack), the first 4 words hold the even inputs and the last 4 words the odd inputs.
//   numbers  0: scale
//            1, 2: GROUP16: scale x sum of the first 16 codes, scale x sum of the last 16; else: scale x sum, -8 x sum as an integer
//            3: with NORM, the sum of the squares of the inputs before the norm's weight
//
// The codes do not include a norm's factor 1 / rms: it is the same for a whole row, and the product multiplies its sums by it (linear-io.wgsl). A
// block therefore depends on nothing outside itself, and any kernel that computes 32 neighbouring columns can write their record.
const RECORD_WORDS = 12u;

fn pack4(codes: vec4<i32>) -> u32 {
  let bytes = bitcast<vec4<u32>>(codes) & vec4<u32>(255u);
  return bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u);
}

fn sum4(codes: vec4<i32>) -> i32 {
  return codes.x + codes.y + (codes.z + codes.w);
}

fn largest_of(values: vec4<f32>) -> f32 {
  return max(max(values.x, values.y), max(values.z, values.w));
}

// The factor from values to codes: 127 / amplitude. It is 0 for an amplitude of at most 1e-35, for which the quotient could overflow.
fn inverse_scale(amplitude: f32) -> f32 {
  return select(127.0 / amplitude, 0.0, amplitude <= 1e-35);
}

fn codes_of_quad(values: vec4<f32>, inverse: f32) -> vec4<i32> {
  return vec4<i32>(round(values * inverse));
}

// The sum of the squares of a quad. The sums of a block's quads are added in order.
fn squares_of(v: vec4<f32>) -> f32 {
  return fma(v.w, v.w, fma(v.z, v.z, fma(v.y, v.y, v.x * v.x)));
}

// The numbers of a record. `amplitude`: the largest magnitude of the block. `low`, `high`: sums of its first and last 16 codes.
fn numbers_of(amplitude: f32, low: i32, high: i32, squares: f32) -> vec4<u32> {
  let scale = select(amplitude / 127.0, 0.0, amplitude <= 1e-35);
#if GROUP16
  return bitcast<vec4<u32>>(vec4<f32>(scale, scale * f32(low), scale * f32(high), squares));
#else
  let sum = low + high;
  return vec4<u32>(bitcast<u32>(scale), bitcast<u32>(scale * f32(sum)), bitcast<u32>(-8 * sum), bitcast<u32>(squares));
#endif
}
