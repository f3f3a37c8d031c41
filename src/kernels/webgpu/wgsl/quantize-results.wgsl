// Writes the results that a workgroup has finished as records of quantize.wgsl, one thread per quad of columns. The including file binds `quantized`
// and, with NORM, `next_weight`, and defines
//   result_quad(i)   quad i of the results; the 8 quads of a block follow one another
//   place_of(own)    where to write the record of block `own` of the workgroup
#include "quantize.wgsl"

struct Place {
  block: u32, // of the row
  word: u32, // of `quantized`
  is_row: bool, // false: the workgroup has no such row
}

var<workgroup> largest_of_quad: array<f32, $(QUADS)>;
var<workgroup> sum_of_quad: array<i32, $(QUADS)>;
#if NORM
var<workgroup> squares_of_quad: array<f32, $(QUADS)>;
#endif

// Quad i as the next product takes it: with NORM, times the norm's weight.
fn next_quad(i: u32) -> vec4<f32> {
#if NORM
  return result_quad(i) * next_weight[place_of(i / 8u).block * 8u + i % 8u];
#else
  return result_quad(i);
#endif
}

// The largest magnitude of the 8 quads of a block. `first`: index of its first quad.
fn amplitude_of(first: u32) -> f32 {
  var amplitude = 0.0;
  for (var q = 0u; q < 8u; q++) {
    amplitude = max(amplitude, largest_of_quad[first + q]);
  }
  return amplitude;
}

// All `threads` threads of the workgroup must call this, after they have stored their results. `index`: of the calling thread.
fn quantize_results(num_quads: u32, index: u32, threads: u32) {
  workgroupBarrier();
  for (var i = index; i < num_quads; i += threads) {
    largest_of_quad[i] = largest_of(abs(next_quad(i)));
#if NORM
    squares_of_quad[i] = squares_of(result_quad(i));
#endif
  }
  workgroupBarrier();
  for (var i = index; i < num_quads; i += threads) {
    let place = place_of(i / 8u);
    let inverse = inverse_scale(amplitude_of(i / 8u * 8u));
#if NIBBLES
    let first = codes_of_quad(next_quad(i & ~1u), inverse);
    let second = codes_of_quad(next_quad(i | 1u), inverse);
    let is_first = (i & 1u) == 0u;
    sum_of_quad[i] = sum4(select(second, first, is_first));
    let codes = select(vec4<i32>(first.yw, second.yw), vec4<i32>(first.xz, second.xz), is_first);
    let word = ((i & 7u) >> 1u) + select(4u, 0u, is_first);
#else
    let codes = codes_of_quad(next_quad(i), inverse);
    sum_of_quad[i] = sum4(codes);
    let word = i % 8u;
#endif
    if (place.is_row) {
      quantized[place.word + word] = pack4(codes);
    }
  }
  workgroupBarrier();
  for (var own = index; own < num_quads / 8u; own += threads) {
    var low = 0;
    var high = 0;
    var squares = 0.0;
    for (var q = 0u; q < 4u; q++) {
      low += sum_of_quad[own * 8u + q];
      high += sum_of_quad[own * 8u + 4u + q];
    }
#if NORM
    for (var q = 0u; q < 8u; q++) {
      squares += squares_of_quad[own * 8u + q];
    }
#endif
    let place = place_of(own);
    if (place.is_row) {
      let numbers = numbers_of(amplitude_of(own * 8u), low, high, squares);
#repeat w 4
      quantized[place.word + $(8 + w)u] = numbers[$(w)];
#end
    }
  }
}
