// Bindings, parameters and epilogue that the linear kernels share. What happens to a finished sum is chosen by uniforms: the branch costs
// nothing beside the sum, and a pipeline less is a pipeline that need not be compiled.
#include "rows.wgsl"

struct LinearParams {
  num_outputs: u32, // columns of out that this shard computes
  num_blocks: u32, // blocks of 32 inputs, the last one padded with zeros
  x_stride: u32, // vec4s a row of x
  out_stride: u32, // floats a row of out
  first_output: u32, // column of out where the shard begins
  first_row: u32, // of x: where the rows of this call begin
  max_rows: u32, // rows of this call at most
  up_bias: u32, // bias[up_bias + n] belongs to the up projection
  weight_scale: f32, // power of two taken out of the f16 scales
  logit_scale: f32,
  softcap: f32, // 0: none
  rows: u32, // ROWS_*
  flags: u32, // FLAG_*
  alpha_p: f32, // xIELU's
  alpha_n: f32,
  beta: f32,
#if EXPERTS
  pairs_of_row: u32, // rows of x stand for this many pairs of row and expert
  max_pairs: u32, // see routing.wgsl
  first_expert: u32, // experts of this shard
  num_experts: u32,
  expert_rows: u32, // packed rows of an expert's matrix
  bias_stride: u32, // floats of an expert's bias
  factors_at: u32, // word of scales where the experts' powers of two begin
#endif
}

const FLAG_BIAS = 1u;
const FLAG_RESIDUAL = 2u;
const FLAG_LOGITS = 4u;
const FLAG_SILU = 8u;
const FLAG_GELU = 16u;
const FLAG_GELU_EXACT = 32u;
const FLAG_GATED = 64u;
const FLAG_CLAMPED = 128u;
const FLAG_RELU2 = 256u;
const FLAG_XIELU = 512u;
const FLAGS_ACTIVATED = FLAG_SILU | FLAG_GELU | FLAG_GELU_EXACT | FLAG_RELU2 | FLAG_XIELU;

@group(0) @binding(1) var<uniform> params: LinearParams;
#if FORMAT < 16
@group(0) @binding(2) var<storage, read> x: array<vec4<u32>>; // prepare.wgsl, 3 vec4s a block
#else
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>; // 8 vec4s a block
#endif
@group(0) @binding(3) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> scales: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read> bias: array<f32>;

#if EXPERTS
@group(0) @binding(7) var<storage, read> routing: array<u32>;
#include "routing.wgsl"

// The expert whose matrix this workgroup multiplies with, among those of the shard.
var<private> expert: u32;

// Whether the expert is in this shard.
fn take_expert(index: u32) -> bool {
  let own = index - params.first_expert;
  expert = own;
  return index >= params.first_expert && own < params.num_experts;
}
#endif

// Rows of a tile of the weight layout: [tile][unit of K][TILE rows] vec4<u32>, see matrix.ts.
const TILE = 32u;

// Rows of this call.
fn num_rows_of_call() -> u32 {
  let rows = num_rows_of(params.rows);
  return min(rows - min(rows, params.first_row), params.max_rows);
}

fn is_gated() -> bool {
  return (params.flags & FLAG_GATED) != 0u;
}

// alpha_p x^2 + beta x above 0, alpha_n (e^x - 1 - x) + beta x below; near 0, where the difference would cancel, by a series.
fn xielu(x: f32) -> f32 {
  let below = min(x, 0.0);
  let series = fma(fma(fma(fma(below, 1.3888889e-3, 8.3333333e-3), below, 4.1666667e-2), below, 1.6666667e-1), below, 0.5);
  let rest = select(exp(below) - 1.0 - below, series * below * below, below > -0.5);
  return fma(params.beta, x, select(params.alpha_n * rest, params.alpha_p * x * x, x > 0.0));
}

fn activate(gate: f32) -> f32 {
  if ((params.flags & FLAG_SILU) != 0u) {
    return gate / (1.0 + exp(-gate));
  }
  if ((params.flags & FLAG_RELU2) != 0u) {
    let positive = max(gate, 0.0);
    return positive * positive;
  }
  if ((params.flags & FLAG_XIELU) != 0u) {
    return xielu(gate);
  }
  if ((params.flags & FLAG_GELU_EXACT) != 0u) {
    // The complement of the error function by Abramowitz and Stegun 7.1.26, as in cpu/assembly/simd.ts.
    let z = abs(gate) * 0.7071067811865476;
    let t = 1.0 / fma(z, 0.3275911, 1.0);
    let p = fma(fma(fma(fma(1.061405429, t, -1.453152027), t, 1.421413741), t, -0.284496736), t, 0.254829592);
    let half = 0.5 * gate * p * t * exp(-z * z);
    return select(half, gate - half, gate > 0.0);
  }
  // tanh of a large argument overflows in implementations that use exp; it is 1 to f32 from 10 on.
  let inner = clamp(0.7978845608028654 * fma(0.044715 * gate * gate, gate, gate), -10.0, 10.0);
  return 0.5 * gate * (1.0 + tanh(inner));
}

// What a gated layer makes of its two sums.
fn join(gate: f32, up: f32) -> f32 {
  if ((params.flags & FLAG_CLAMPED) != 0u) {
    let g = min(gate, 7.0);
    return g / (1.0 + exp(-1.702 * g)) * (clamp(up, -7.0, 7.0) + 1.0);
  }
  return activate(gate) * up;
}

// Stores a finished sum as column n of row m of this call. `up`: the up projection's sum of a gated matrix.
fn store(m: u32, n: u32, sum: f32, up: f32) {
#if EXPERTS
  let weight_scale = bitcast<f32>(scales[params.factors_at + expert]);
  let bias_at = (params.first_expert + expert) * params.bias_stride;
#else
  let weight_scale = params.weight_scale;
  let bias_at = 0u;
#endif
  var value = sum * weight_scale;
  let column = params.first_output + n;
  if ((params.flags & FLAG_BIAS) != 0u) {
    value += bias[bias_at + column];
  }
  if (is_gated()) {
    var factor = up * weight_scale;
    if ((params.flags & FLAG_BIAS) != 0u) {
      factor += bias[bias_at + params.up_bias + column];
    }
    value = join(value, factor);
  } else if ((params.flags & FLAGS_ACTIVATED) != 0u) {
    value = activate(value);
  }
  if ((params.flags & FLAG_LOGITS) != 0u) {
    value *= params.logit_scale;
    if (params.softcap > 0.0) {
      value = params.softcap * tanh(clamp(value / params.softcap, -10.0, 10.0));
    }
  }
  let at = m * params.out_stride + column;
  if ((params.flags & FLAG_RESIDUAL) != 0u) {
    value += out[at];
  }
  out[at] = value;
}
