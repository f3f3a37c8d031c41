// Bindings, parameters and epilogue that the linear kernels share.
#include "step.wgsl"

struct LinearParams {
  num_outputs: u32, // columns of out that this shard computes
  num_blocks: u32, // blocks of 32 inputs, the last one padded with zeros
  x_stride: u32, // floats a row of x
  out_stride: u32, // floats a row of out
  first_output: u32, // column of out where the shard begins
  first_row: u32, // gathered rows: where the chunk begins
  max_rows: u32, // rows of the chunk at most
  glu_bias: u32, // bias[glu_bias + n] belongs to the up projection
  inverse_cols: f32,
  eps: f32,
  weight_scale: f32, // power of two taken out of the f16 scales
  logit_scale: f32,
  softcap: f32,
  segments: u32, // K is cut into this many runs of blocks, whose sums are added in order
}

@group(0) @binding(1) var<uniform> params: LinearParams;
#if X_WIDTH == 4
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> norm_weight: array<vec4<f32>>;
#else
@group(0) @binding(2) var<storage, read> x: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read> norm_weight: array<vec2<f32>>;
#endif
@group(0) @binding(3) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> scales: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;

// Rows of a tile of the weight layout: [tile][unit of K][TILE rows] vec4<u32>, see matrix.ts.
const TILE = 32u;

fn rows_of_chunk() -> u32 {
#if GATHER == 1
  let rows = header(NUM_SAMPLE_ROWS);
  return min(select(0u, rows - params.first_row, rows > params.first_row), params.max_rows);
#endif
#if GATHER == 2
  let rows = header(NUM_SCORE_ROWS);
  return min(select(0u, rows - params.first_row, rows > params.first_row), params.max_rows);
#endif
#if GATHER == 0
  return header(NUM_ROWS);
#endif
}

// Row of x that feeds row m of out. Rows past the last compute the last one again and are not stored.
fn source_row(m: u32, num_rows: u32) -> u32 {
  let clamped = min(m, num_rows - 1u);
#if GATHER == 1
  return u32(step[header(SAMPLE_ROWS) + params.first_row + clamped]);
#endif
#if GATHER == 2
  return u32(step[header(SCORE_ROWS) + params.first_row + clamped]);
#endif
#if GATHER == 0
  return clamped;
#endif
}

#if GLU > 0
fn activate(gate: f32) -> f32 {
#if GLU == 1
  return gate / (1.0 + exp(-gate));
#else
  // tanh of a large argument overflows in implementations that use exp; it is 1 to f32 from 10 on.
  let inner = clamp(0.7978845608028654 * fma(0.044715 * gate * gate, gate, gate), -10.0, 10.0);
  return 0.5 * gate * (1.0 + tanh(inner));
#endif
}
#endif

fn store(m: u32, n: u32, value: f32) {
  let at = m * params.out_stride + params.first_output + n;
#if LOGITS
  var logit = value * params.logit_scale;
  if (params.softcap > 0.0) {
    logit = params.softcap * tanh(clamp(logit / params.softcap, -10.0, 10.0));
  }
  out[at] = logit;
#else
#if RESIDUAL
  out[at] += value;
#else
  out[at] = value;
#endif
#endif
}
