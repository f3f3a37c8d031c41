// Sums of products of int8 activations with codes of 4 to 6 bits: the innermost step of linear-q4.ts and linear-narrow.ts, relaxed SIMD. Two forms,
// chosen when the kernels are built (DOT_PRODUCTS, scripts/build-wasm.mjs); which one a processor is given is ../kernel-build.ts's to find out.
//
// - Pairs: eight sums of two columns as i16, which meet as four i32 where a group ends. Two instructions per 16 products on x86, four on ARM.
// - Dot products: four sums as i32 from the start. One instruction per 16 products on x86 with AVX-VNNI and on ARM with dot products; without them
//   three on x86, more than pairs take.
//
// Both are exact, so results have the same bits. The second operand is never negative and has at most 6 bits, which is what the relaxed instructions
// ask of it, and a sum of two products, at most 2 * 128 * 63, is far from where an implementation may saturate an i16.

/** Four columns of x (the same four for each output) times four of w's outputs, added to `sum`. */
// @ts-ignore: decorator
@inline
export function addDot(sum: v128, x: v128, w: v128): v128 {
  if (DOT_PRODUCTS) return i32x4.relaxed_dot_i8x16_i7x16_add_s(x, w, sum)
  return i16x8.add(sum, i16x8.relaxed_dot_i8x16_i7x16_s(x, w))
}

/**
 * Sums of eight columns. Dot products begin at zero, not at the sum they will be added to: an instruction that adds takes about five cycles, and one
 * row has too few sums to wait for each.
 */
// @ts-ignore: decorator
@inline
export function dots(x0: v128, w0: v128, x1: v128, w1: v128): v128 {
  if (DOT_PRODUCTS) return addDot(addDot(i32x4.splat(0), x0, w0), x1, w1)
  return i16x8.add(i16x8.relaxed_dot_i8x16_i7x16_s(x0, w0), i16x8.relaxed_dot_i8x16_i7x16_s(x1, w1))
}

/** The sum of two such sums. */
// @ts-ignore: decorator
@inline
export function addSums(a: v128, b: v128): v128 {
  return DOT_PRODUCTS ? i32x4.add(a, b) : i16x8.add(a, b)
}

/** Sums as four i32, plus `start`. As pairs they fit an i16 up to eight times 2 * 127 * 15, or twice 2 * 127 * 63. */
// @ts-ignore: decorator
@inline
export function widened(sums: v128, start: v128): v128 {
  return i32x4.add(start, DOT_PRODUCTS ? sums : i32x4.dot_i16x8_s(sums, i16x8.splat(1)))
}

/** The same times a sub-scale for each output; `twice` has each as two i16. */
// @ts-ignore: decorator
@inline
export function scaled(sums: v128, twice: v128): v128 {
  return DOT_PRODUCTS ? i32x4.mul(sums, i32x4.shr_s(twice, 16)) : i32x4.dot_i16x8_s(sums, twice)
}
