// Bindings, parameters and epilogue that the linear kernels share. What happens to a finished sum is chosen by uniforms: the branch costs
// nothing beside the sum, and a pipeline less is a pipeline that need not be compiled.
#include "step.wgsl"

struct LinearParams {
  num_outputs: u32, // columns of out that this shard computes
  num_blocks: u32, // blocks of 32 inputs, the last one padded with zeros
  x_stride: u32, // floats a row of x
  out_stride: u32, // floats a row of out
  first_output: u32, // column of out where the shard begins
  first_row: u32, // gathered rows: where the chunk begins
  max_rows: u32, // rows of the chunk at most
  up_bias: u32, // bias[up_bias + n] belongs to the up projection
  inverse_cols: f32,
  eps: f32,
  weight_scale: f32, // power of two taken out of the f16 scales
  logit_scale: f32,
  softcap: f32, // 0: none
  gather: u32, // GATHER_*
  flags: u32, // FLAG_*
  rows_per_lane: u32, // R: not known to the compiler, which would unroll the epilogue
  block_steps: u32, // steps a block, likewise
  segments: u32, // of K: whose sums are added in order
}

const GATHER_SAMPLE = 1u;
const GATHER_SCORE = 2u;
const FLAG_BIAS = 1u;
const FLAG_RESIDUAL = 2u;
const FLAG_LOGITS = 4u;
const FLAG_SILU = 8u;
const FLAG_GELU = 16u;

@group(0) @binding(1) var<uniform> params: LinearParams;
#if W == 1
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(6) var<storage, read> norm_weight: array<f32>;
#else
@group(0) @binding(2) var<storage, read> x: array<vec$(W)<f32>>;
@group(0) @binding(6) var<storage, read> norm_weight: array<vec$(W)<f32>>;
#endif
@group(0) @binding(3) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> scales: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;

// Rows of a tile of the weight layout: [tile][unit of K][TILE rows] vec4<u32>, see matrix.ts.
const TILE = 32u;

// Row of x that feeds row m of out. Rows past the last compute the last one again and are not stored.
fn source_row(m: u32, num_rows: u32) -> u32 {
  let row = min(m, num_rows - 1u);
  if (params.gather == GATHER_SAMPLE) {
    return u32(step[header(SAMPLE_ROWS) + params.first_row + row]);
  }
  if (params.gather == GATHER_SCORE) {
    return u32(step[header(SCORE_ROWS) + params.first_row + row]);
  }
  return row;
}

fn rows_of_call() -> u32 {
  if (params.gather == 0u) {
    return header(NUM_ROWS);
  }
  let rows = header(select(NUM_SCORE_ROWS, NUM_SAMPLE_ROWS, params.gather == GATHER_SAMPLE));
  return min(rows - min(rows, params.first_row), params.max_rows);
}

fn is_gated() -> bool {
  return (params.flags & (FLAG_SILU | FLAG_GELU)) != 0u;
}

fn activate(gate: f32) -> f32 {
  if ((params.flags & FLAG_SILU) != 0u) {
    return gate / (1.0 + exp(-gate));
  }
  // tanh of a large argument overflows in implementations that use exp; it is 1 to f32 from 10 on.
  let inner = clamp(0.7978845608028654 * fma(0.044715 * gate * gate, gate, gate), -10.0, 10.0);
  return 0.5 * gate * (1.0 + tanh(inner));
}

// Stores a finished sum as column n of row m. `up`: the up projection's sum of a gated matrix.
fn store(m: u32, n: u32, sum: f32, up: f32) {
  var value = sum;
  let column = params.first_output + n;
  if ((params.flags & FLAG_BIAS) != 0u) {
    value += bias[column];
  }
  if (is_gated()) {
    var factor = up;
    if ((params.flags & FLAG_BIAS) != 0u) {
      factor += bias[params.up_bias + column];
    }
    value = activate(value) * factor;
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
