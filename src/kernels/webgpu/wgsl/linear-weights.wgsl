// How the linear kernels read weights, and the innermost part of every sum.
//
// Quantised: within a block of 32 inputs, the products of codes add up to an exact integer in any order. Blocks are added in ascending order, in f32:
//   acc = acc + f32(integer sum) * (weight scale * activation scale)
//   acc = acc + minimum * (sum of the block's activations), for formats with minimums
// Float: acc = fma(w, x, acc), inputs in ascending order.

// Index into `codes` of the first unit of a packed row; the units of a row are TILE apart.
fn codes_of(row: u32) -> u32 {
  return (row / TILE) * params.num_blocks * $(FORMAT * 8)u + row % TILE;
}

#if FORMAT < 16
// Index into `scales` of the first word of a packed row; the words of a row are TILE apart.
fn scales_of(row: u32) -> u32 {
#if FP4
  let words = (params.num_blocks + 3u) >> 2u;
#endif
#if MINS
  let words = params.num_blocks * $(32 / GROUP)u;
#endif
#if !MINS && !FP4
  let words = (params.num_blocks * $(32 / GROUP)u + 1u) >> 1u;
#endif
  return (row / TILE) * words * TILE + row % TILE;
}

// (scale of the first 16 inputs of a block, scale of the last 16, their two minimums).
fn load_scales(first: u32, block: u32) -> vec4<f32> {
#if MINS && GROUP == 16
  let low = unpack2x16float(scales[first + 2u * block * TILE]);
  let high = unpack2x16float(scales[first + (2u * block + 1u) * TILE]);
  return vec4<f32>(low.x, high.x, low.y, high.y);
#endif
#if MINS && GROUP == 32
  let pair = unpack2x16float(scales[first + block * TILE]);
  return pair.xxyy;
#endif
#if !MINS && GROUP == 16
  return vec4<f32>(unpack2x16float(scales[first + block * TILE]), 0.0, 0.0);
#endif
#if FP4
  // 2^(exponent - 127). An exponent of 0 gives 0, not 2^-127.
  let exponents = scales[first + (block >> 2u) * TILE];
  return vec4<f32>(bitcast<f32>(((exponents >> (8u * (block & 3u))) & 255u) << 23u));
#endif
#if !MINS && GROUP == 32 && !FP4
  let pair = unpack2x16float(scales[first + (block >> 1u) * TILE]);
  return vec4<f32>(select(pair.x, pair.y, (block & 1u) == 1u));
#endif
}

#if FP4
// The doubled magnitude of each E2M1 code of a unit, in the code's nibble: 0, 1, 2, 3 for codes 0 to 3, and 4, 6, 8, 12 for codes 4 to 7.
fn magnitudes(unit: vec4<u32>) -> vec4<u32> {
  let large = (unit >> vec4<u32>(2u)) & vec4<u32>(0x11111111u);
  let low = unit & vec4<u32>(0x33333333u);
  let more = low & (large | (large << vec4<u32>(1u)));
  return low + (large << vec4<u32>(2u)) + more + ((more & (more >> vec4<u32>(1u))) << vec4<u32>(1u));
}

// Negates each byte of magnitudes for which the byte of `signs` is odd. There is no negative zero: its carry would reach the next byte.
fn with_signs(bytes: vec4<u32>, signs: vec4<u32>) -> vec4<u32> {
  let negative = signs & vec4<u32>(0x01010101u);
  return (bytes ^ ((negative << vec4<u32>(8u)) - negative)) + negative;
}

// The doubled values of a unit as int8. even_codes: the even inputs, odd_codes: the odd inputs.
fn even_codes(unit: vec4<u32>) -> vec4<u32> {
  return with_signs(magnitudes(unit) & vec4<u32>(0x0f0f0f0fu), unit >> vec4<u32>(3u));
}

fn odd_codes(unit: vec4<u32>) -> vec4<u32> {
  return with_signs((magnitudes(unit) >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu), unit >> vec4<u32>(7u));
}
#endif
#if FORMAT == 4 && !FP4
// The nibbles of a unit as int8. even_codes: the even inputs, odd_codes: the odd inputs.
fn even_codes(unit: vec4<u32>) -> vec4<u32> {
  return unit & vec4<u32>(0x0f0f0f0fu);
}

fn odd_codes(unit: vec4<u32>) -> vec4<u32> {
  return (unit >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
}
#endif

fn dot4(a: u32, b: u32) -> i32 {
#if DOT4
  return dot4I8Packed(a, b);
#else
  let x = bitcast<vec4<i32>>(vec4<u32>(a) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u);
  let y = bitcast<vec4<i32>>(vec4<u32>(b) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u);
  return x.x * y.x + x.y * y.y + (x.z * y.z + x.w * y.w);
#endif
}

fn dot16(a: vec4<u32>, b: vec4<u32>) -> i32 {
  return dot4(a.x, b.x) + dot4(a.y, b.y) + (dot4(a.z, b.z) + dot4(a.w, b.w));
}

// Adds a block to acc. `low`, `high`: integer sums of its first and last 16 inputs. `weights`: its scales and minimums (load_scales).
// `activations`: the numbers of the record of activations (quantize.wgsl).
fn add_block(acc: f32, low: i32, high: i32, weights: vec4<f32>, activations: vec4<u32>) -> f32 {
  let sums = bitcast<vec3<f32>>(activations.xyz);
#if GROUP == 16
  var sum = fma(f32(low), weights.x * sums.x, acc);
  sum = fma(f32(high), weights.y * sums.x, sum);
#if MINS
  sum = fma(weights.z, sums.y, sum);
  sum = fma(weights.w, sums.z, sum);
#endif
#else
#if FORMAT == 4 && !MINS && !FP4
  // A code c stands for c - 8; activations.z is -8 times the sum of the activations' codes.
  var sum = fma(f32(low + high + bitcast<i32>(activations.z)), weights.x * sums.x, acc);
#else
  var sum = fma(f32(low + high), weights.x * sums.x, acc);
#endif
#if MINS
  sum = fma(weights.z, sums.y, sum);
#endif
#endif
  return sum;
}
#else

#if FORMAT == 16
// The first 4 and the last 4 of the 8 inputs of a unit.
fn first_quad(unit: vec4<u32>) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(unit.x), unpack2x16float(unit.y));
}

fn second_quad(unit: vec4<u32>) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(unit.z), unpack2x16float(unit.w));
}
#endif

fn add_quad(acc: f32, w: vec4<f32>, v: vec4<f32>) -> f32 {
  return fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, acc))));
}
#endif
