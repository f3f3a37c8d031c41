// Prepares a scan for all rows at once: computes the decay and rate of each head and, for the delta rule (DELTA), divides q and k in place by their
// L2 norms, and q also by sqrt(D).
//
//   x        f32 [rows, x_stride]: q heads, k heads, v heads (delta rule)
//   scalars  f32 [rows, heads] of (decay, rate)
//   launch   x = 1, with the delta rule 2 numKeyHeads + 1; y = rows; workgroup = WS threads. The last workgroup of a row computes the scalars
#include "step.wgsl"

struct PrepareParams {
  heads: u32,
  x_stride: u32,
  step_stride: u32,
  step_offset: u32,
  beta_stride: u32,
  beta_offset: u32,
  num_key_heads: u32,
}

@group(0) @binding(1) var<uniform> params: PrepareParams;
@group(0) @binding(2) var<storage, read> steps: array<f32>;
@group(0) @binding(3) var<storage, read> betas: array<f32>;
@group(0) @binding(4) var<storage, read> step_bias: array<f32>;
@group(0) @binding(5) var<storage, read> decay_rate: array<f32>;
@group(0) @binding(6) var<storage, read_write> scalars: array<vec2<f32>>;
@group(0) @binding(7) var<storage, read_write> x: array<f32>;

#if DELTA
#include "row-sums.wgsl"
#endif

// log(1 + e^v), also where 1 + e^v would round to 1.
fn softplus(v: f32) -> f32 {
  let e = exp(-abs(v));
  return max(v, 0.0) + select(log(1.0 + e), e * (1.0 - 0.5 * e), e < 1e-3);
}

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = group.y;
#if DELTA
  if (group.x < 2u * params.num_key_heads) {
    let base = row * params.x_stride + group.x * $(D)u;
    var sum = 0.0;
    for (var i = lane; i < $(D)u; i += $(WS)u) {
      let value = x[base + i];
      sum = fma(value, value, sum);
    }
    let scale = select(1.0, 1.0 / sqrt($(D).0), group.x < params.num_key_heads);
    let factor = scale / sqrt(total(sum, lane) + 1e-6);
    for (var i = lane; i < $(D)u; i += $(WS)u) {
      x[base + i] *= factor;
    }
    return;
  }
#endif
  for (var head = lane; head < params.heads; head += $(WS)u) {
    let dt = softplus(steps[row * params.step_stride + params.step_offset + head] + step_bias[head]);
#if DELTA
    let rate = 1.0 / (1.0 + exp(-betas[row * params.beta_stride + params.beta_offset + head]));
#else
    let rate = dt;
#endif
    scalars[row * params.heads + head] = vec2<f32>(exp(decay_rate[head] * dt), rate);
  }
}
