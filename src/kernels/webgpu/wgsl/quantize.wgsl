// Rows in int8, as products with quantised weights take them: of each block of 32 inputs a record of 12 words, 8 of codes and 4 of numbers.
//
//   codes    code = nearest(v * 127 / max |v|), as in cpu/assembly/prepare.ts, 4 to a word in order. For q4 (NIBBLES), whose words are taken
//            apart by a mask and a shift, the first 4 words hold the even inputs of each 8, the others the odd ones.
//   numbers  scale; GROUP 16: scale x sum of the first 16 codes, scale x sum of the last 16; GROUP 32: scale x sum, -8 x sum as an integer;
//            with NORM the sum of the squares of the inputs before the norm's weight
//
// A norm's factor 1 / rms is not in the codes: it is the same for a whole row, and the product multiplies its sums by it (linear-io.wgsl). So a
// block depends on nothing outside itself, and whatever computes 32 neighbouring columns can write their record.
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

// What values are multiplied by to be codes. The division, unlike the multiplication by a reciprocal, cannot overflow for a tiny amplitude.
fn inverse_scale(amplitude: f32) -> f32 {
  return select(127.0 / amplitude, 0.0, amplitude <= 1e-35);
}

fn codes_of_quad(values: vec4<f32>, inverse: f32) -> vec4<i32> {
  return vec4<i32>(round(values * inverse));
}

// Of a quad; those of a block are added in order.
fn squares_of(v: vec4<f32>) -> f32 {
  return fma(v.w, v.w, fma(v.z, v.z, fma(v.y, v.y, v.x * v.x)));
}

// The numbers of a record. `low`, `high`: sums of the first and the last 16 codes.
fn numbers_of(amplitude: f32, low: i32, high: i32, squares: f32) -> vec4<u32> {
  let scale = select(amplitude / 127.0, 0.0, amplitude <= 1e-35);
#if GROUP16
  return bitcast<vec4<u32>>(vec4<f32>(scale, scale * f32(low), scale * f32(high), squares));
#else
  let sum = low + high;
  return vec4<u32>(bitcast<u32>(scale), bitcast<u32>(scale * f32(sum)), bitcast<u32>(-8 * sum), bitcast<u32>(squares));
#endif
}
