// Bindings, parameters and epilogue of the linear kernels. Uniforms, not pipeline variants, select what happens to a finished sum: next to the sum,
// the branch costs nothing, and there are fewer pipelines to compile.
#include "rows.wgsl"

struct LinearParams {
  num_outputs: u32, // columns of out that this shard computes
  num_blocks: u32, // blocks of 32 inputs; the last is padded with zeros
  x_stride: u32, // vec4s per row of x
  out_stride: u32, // floats per row of out
  first_output: u32, // column of out where the shard begins
  first_row: u32, // row of x where the rows of this call begin
  max_rows: u32, // most rows of this call
  up_bias: u32, // bias[up_bias + n] belongs to the up projection
  weight_scale: f32, // power of two taken out of the f16 scales
  logit_scale: f32,
  softcap: f32, // 0: none
  rows: u32, // ROWS_*
  flags: u32, // FLAG_*
  alpha_p: f32, // alpha_p, alpha_n and beta: parameters of xIELU
  alpha_n: f32,
  beta: f32,
  first_tile: u32, // linear-matrix.wgsl: tiles of rows before those of this dispatch
  inverse_cols: f32, // 1 / columns of x, for the norm
  norm_eps: f32,
#if EXPERTS
  pairs_of_row: u32, // (row, expert) pairs that one row of x serves
  max_pairs: u32, // see routing.wgsl
  first_expert: u32, // of this shard
  num_experts: u32, // of this shard
  expert_rows: u32, // packed rows of an expert's matrix
  bias_stride: u32, // floats of an expert's bias
  factors_at: u32, // word of `scales` where the experts' weight scales (powers of two) begin
#endif
}

const FLAG_BIAS = 1u;
const FLAG_RESIDUAL = 2u;
const FLAG_LOGITS = 4u;
#include "activation.wgsl"

@group(0) @binding(1) var<uniform> params: LinearParams;
#if FORMAT < 16
@group(0) @binding(2) var<storage, read> x: array<vec4<u32>>; // records of quantize.wgsl, 3 vec4s per block
#else
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>; // 8 vec4s per block
#endif
@group(0) @binding(3) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> scales: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read> bias: array<f32>;

#if EXPERTS
@group(0) @binding(7) var<storage, read> routing: array<u32>;
#include "routing.wgsl"

// Index within the shard of the expert that this workgroup multiplies with.
var<private> expert: u32;

// Sets `expert` from an index over all experts; returns whether the expert is in this shard.
fn take_expert(index: u32) -> bool {
  let own = index - params.first_expert;
  expert = own;
  return index >= params.first_expert && own < params.num_experts;
}
#endif

#if NEXT
// Quantised results for the products that follow, see quantize-results.wgsl.
@group(0) @binding(7) var<storage, read_write> quantized: array<u32>;
@group(0) @binding(8) var<storage, read> next_weight: array<vec4<f32>>;

// [rows that are finished at a time][columns of a workgroup]
var<workgroup> results: array<f32, $(RESULTS)>;

fn result_quad(i: u32) -> vec4<f32> {
  return vec4<f32>(results[4u * i], results[4u * i + 1u], results[4u * i + 2u], results[4u * i + 3u]);
}

#include "quantize-results.wgsl"

fn place_at(row: u32, column: u32, is_row: bool) -> Place {
  let block = (params.first_output + column) >> 5u;
  return Place(block, (row * (params.out_stride >> 5u) + block) * RECORD_WORDS, is_row);
}
#endif

// 1 / rms of a row of x, from the sum of its squares.
fn norm_factor(squares: f32) -> f32 {
  return 1.0 / sqrt(squares * params.inverse_cols + params.norm_eps);
}

// Output rows of a tile of the weight layout, [tile][unit of K][TILE rows] vec4<u32>; see matrix.ts.
const TILE = 32u;

// Number of rows of this call.
fn num_rows_of_call() -> u32 {
  let rows = num_rows_of(params.rows);
  return min(rows - min(rows, params.first_row), params.max_rows);
}

// Applies the epilogue to a finished sum, stores the value as column n of row m of this call, and returns it.
// `up`: the sum of the up projection, for a gated matrix. `factor`: 1 / rms of the row, or 1 without a norm.
fn store(m: u32, n: u32, sum: f32, up: f32, factor: f32) -> f32 {
#if EXPERTS
  let scale = bitcast<f32>(scales[params.factors_at + expert]) * factor;
  let bias_at = (params.first_expert + expert) * params.bias_stride;
#else
  let scale = params.weight_scale * factor;
  let bias_at = 0u;
#endif
  var value = sum * scale;
  let column = params.first_output + n;
  if ((params.flags & FLAG_BIAS) != 0u) {
    value += bias[bias_at + column];
  }
  if (is_gated()) {
    var multiplier = up * scale;
    if ((params.flags & FLAG_BIAS) != 0u) {
      multiplier += bias[bias_at + params.up_bias + column];
    }
    value = join(value, multiplier);
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
  return value;
}
