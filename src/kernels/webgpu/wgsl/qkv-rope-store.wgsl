// Splits qkv rows into heads; normalises q and k and rotates them (RoPE, https://arxiv.org/abs/2104.09864); writes q as f32, and k and v to the pool
// as f16 or (KV_Q8) int8.
//
//   qkv      f32 [rows, stride]: q heads, k heads, v heads
//   q        f32 [rows, q_stride]
//   kv       one layer of the pool as u32 words, see kv-layout.wgsl
//   launch   x = numHeads + 2 numKvHeads, y = rows; workgroup = WS threads; a thread takes two neighbouring dims (one f16 word) at a time
//
// Each thread rotates the dims that it stores by itself. The dims of a rope pair (i, i + half) are in different words, and reading both twice is
// cheaper than exchanging them.
#include "step.wgsl"

struct QkvParams {
  num_heads: u32,
  num_kv_heads: u32,
  qkv_stride: u32,
  q_stride: u32,
  rotary_half: u32,
  v_base: u32,
  q_eps: f32,
  k_eps: f32,
  scale_base: u32,
  v_eps: f32,
  positions: u32, // word of the step's header with the offset of the rows' positions
}

@group(0) @binding(1) var<uniform> params: QkvParams;
@group(0) @binding(2) var<storage, read> qkv: array<f32>;
@group(0) @binding(3) var<storage, read_write> q: array<f32>;
@group(0) @binding(4) var<storage, read_write> kv: array<u32>;
@group(0) @binding(5) var<storage, read> rope: array<vec2<f32>>; // rope.ts
@group(0) @binding(6) var<storage, read> q_weight: array<f32>;
@group(0) @binding(7) var<storage, read> k_weight: array<f32>;

#include "kv-layout.wgsl"

#if QK_NORM > 0 || KV_Q8
var<workgroup> sums: array<f32, $(WS)>;
#endif

#if KV_Q8
// Four values as int8 codes, rounded to the nearest, ties to even.
fn pack_codes(values: vec4<f32>) -> u32 {
  let whole = vec4<i32>(round(values));
  let bits = bitcast<vec4<u32>>(whole) & vec4<u32>(255u);
  return bits.x | (bits.y << 8u) | (bits.z << 16u) | (bits.w << 24u);
}
#endif

#if ROPE
// Cosine and sine of the angle of pair i at a position: the angle is the sum of two angles of the table.
fn angle_of(position: u32, i: u32) -> vec2<f32> {
  let low = rope[position % 256u * params.rotary_half + i];
  let high = rope[(256u + position / 256u) * params.rotary_half + i];
  return vec2<f32>(low.x * high.x - low.y * high.y, low.y * high.x + low.x * high.y);
}
#endif

// Whether a head is normalised.
fn has_norm(is_v: bool) -> bool {
#if V_NORM
  return true;
#else
  return !is_v;
#endif
}

// Dim d of a q or k head after the norm that precedes the rotation, and the rotation. `base`: index of the head's first value in qkv.
fn turned(base: u32, weight_base: u32, d: u32, factor: f32, is_q: bool, position: u32) -> f32 {
  var value = normed(base, weight_base, d, factor, is_q);
#if ROPE
  let half = params.rotary_half;
  if (d < half) {
    let angle = angle_of(position, d);
    value = value * angle.x - normed(base, weight_base, d + half, factor, is_q) * angle.y;
  } else if (d < 2u * half) {
    let angle = angle_of(position, d - half);
    value = value * angle.x + normed(base, weight_base, d - half, factor, is_q) * angle.y;
  }
#endif
  return value;
}

// The same value, times the weight of a norm that follows the rotation (QK_NORM 3).
fn rotated(base: u32, weight_base: u32, d: u32, factor: f32, is_q: bool, position: u32) -> f32 {
  let value = turned(base, weight_base, d, factor, is_q, position);
#if QK_NORM == 3
  return value * norm_weight(weight_base + d, is_q);
#else
  return value;
#endif
}

#if QK_NORM > 0
fn norm_weight(index: u32, is_q: bool) -> f32 {
  if (is_q) {
    return q_weight[index];
  }
  return k_weight[index];
}
#endif

// Dim d before the rotation: as it is (QK_NORM 0), multiplied by 1 / rms of the rotated head (QK_NORM 3), or normalised with its weight.
fn normed(base: u32, weight_base: u32, d: u32, factor: f32, is_q: bool) -> f32 {
#if QK_NORM == 0
  return qkv[base + d];
#endif
#if QK_NORM == 3
  return qkv[base + d] * factor;
#endif
#if QK_NORM == 1 || QK_NORM == 2
  return qkv[base + d] * factor * norm_weight(weight_base + d, is_q);
#endif
}

#if KV_Q8
// Four dims of a k or v head as they go to the pool, before they are quantised.
fn stored(base: u32, weight_base: u32, d: u32, factor: f32, is_v: bool, position: u32) -> vec4<f32> {
  if (is_v) {
    return factor * vec4<f32>(qkv[base + d], qkv[base + d + 1u], qkv[base + d + 2u], qkv[base + d + 3u]);
  }
  return vec4<f32>(
    rotated(base, weight_base, d, factor, false, position),
    rotated(base, weight_base, d + 1u, factor, false, position),
    rotated(base, weight_base, d + 2u, factor, false, position),
    rotated(base, weight_base, d + 3u, factor, false, position),
  );
}
#endif

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = group.y;
  let head = group.x;
  let is_q = head < params.num_heads;
  let is_v = head >= params.num_heads + params.num_kv_heads;
  let position = u32(step[header(params.positions) + row]);
  let base = row * params.qkv_stride + head * $(D)u;
  var factor = 1.0;
  var weight_base = 0u;
#if QK_NORM > 0
  let own = select(head - params.num_heads, head, is_q);
#if QK_NORM != 2
  let start = base;
  let width = $(D)u;
#else
  let start = base - own * $(D)u;
  let width = $(D)u * select(params.num_kv_heads, params.num_heads, is_q);
  weight_base = own * $(D)u;
#endif
  if (has_norm(is_v)) {
    var sum = 0.0;
    for (var i = lane; i < width; i += $(WS)u) {
#if QK_NORM == 3
      let value = turned(base, 0u, i, 1.0, is_q, position);
#else
      let value = qkv[start + i];
#endif
      sum = fma(value, value, sum);
    }
    sums[lane] = sum;
  }
  workgroupBarrier();
  if (has_norm(is_v)) {
    var total = 0.0;
  for (var t = 0u; t < $(WS)u; t++) {
      total += sums[t];
  }
    factor = 1.0 / sqrt(total / f32(width) + select(select(params.k_eps, params.v_eps, is_v), params.q_eps, is_q));
  }
#endif
  let slot = u32(step[header(SLOTS) + row]);
  let block = slot / $(BLOCK)u;
  let token = slot % $(BLOCK)u;
#if KV_Q8
  // Two passes over four dims at a time: one for the largest magnitude, one for the codes.
  var largest = 0.0;
  if (!is_q) {
    for (var d = 4u * lane; d < $(D)u; d += $(4 * WS)u) {
      let values = abs(stored(base, weight_base, d, factor, is_v, position));
      largest = max(largest, max(max(values.x, values.y), max(values.z, values.w)));
    }
  }
  workgroupBarrier();
  sums[lane] = largest;
  workgroupBarrier();
  for (var t = 0u; t < $(WS)u; t++) {
    largest = max(largest, sums[t]);
  }
  if (!is_q) {
    let side = select(0u, 1u, is_v);
    let kv_head = head - params.num_heads - side * params.num_kv_heads;
    // As in quantize.wgsl: 127 / largest must not overflow for a tiny amplitude.
    var inverse = 0.0;
    if (largest > 1e-35) {
      inverse = 127.0 / largest;
    }
    for (var d = 4u * lane; d < $(D)u; d += $(4 * WS)u) {
      let packed = pack_codes(stored(base, weight_base, d, factor, is_v, position) * inverse);
      let at = select(k_at(block, kv_head, d >> 4u, token), v_at(block, kv_head, token, d >> 4u), is_v);
      kv[at * 4u + ((d >> 2u) & 3u)] = packed;
    }
    if (lane == 0u) {
      kv[scale_at(block, kv_head, side, token)] = bitcast<u32>(largest / 127.0);
    }
    return;
  }
#endif
  for (var word = lane; word < $(D / 2)u; word += $(WS)u) {
    let d = 2u * word;
#if KV_Q8
    let at = row * params.q_stride + head * $(D)u + d;
    q[at] = rotated(base, weight_base, d, factor, true, position);
    q[at + 1u] = rotated(base, weight_base, d + 1u, factor, true, position);
#else
    if (is_v) {
      let kv_head = head - params.num_heads - params.num_kv_heads;
      kv[v_at(block, kv_head, token, word >> 2u) * 4u + (word & 3u)] = pack2x16float(factor * vec2<f32>(qkv[base + d], qkv[base + d + 1u]));
    } else {
      let low = rotated(base, weight_base, d, factor, is_q, position);
      let high = rotated(base, weight_base, d + 1u, factor, is_q, position);
      if (is_q) {
        let at = row * params.q_stride + head * $(D)u + d;
        q[at] = low;
        q[at + 1u] = high;
      } else {
        kv[k_at(block, head - params.num_heads, word >> 2u, token) * 4u + (word & 3u)] = pack2x16float(vec2<f32>(low, high));
      }
    }
#endif
  }
}
