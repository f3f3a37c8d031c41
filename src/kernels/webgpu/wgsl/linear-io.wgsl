// Bindings, parameters and epilogue that the linear kernels share. What happens to a finished sum is chosen by uniforms: the branch costs
// nothing beside the sum, and a pipeline less is a pipeline that need not be compiled.
#include "rows.wgsl"

struct LinearParams {
  num_outputs: u32, // columns of out that this shard computes
  num_blocks: u32, // blocks of 32 inputs, the last one padded with zeros
  x_stride: u32, // vec4s per row of x
  out_stride: u32, // floats per row of out
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
  first_tile: u32, // of linear-matrix.wgsl: tiles of rows before those of this dispatch
  inverse_cols: f32, // of x, for its norm
  norm_eps: f32,
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
#include "activation.wgsl"

@group(0) @binding(1) var<uniform> params: LinearParams;
#if FORMAT < 16
@group(0) @binding(2) var<storage, read> x: array<vec4<u32>>; // prepare.wgsl, 3 vec4s per block
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

// The expert whose matrix this workgroup multiplies with, among those of the shard.
var<private> expert: u32;

// Whether the expert is in this shard.
fn take_expert(index: u32) -> bool {
  let own = index - params.first_expert;
  expert = own;
  return index >= params.first_expert && own < params.num_experts;
}
#endif

#if NEXT
// Records of the results for the products that follow, see quantize-results.wgsl.
@group(0) @binding(7) var<storage, read_write> quantized: array<u32>;
@group(0) @binding(8) var<storage, read> next_weight: array<vec4<f32>>;

// f32 [rows at a time][columns of a workgroup]
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

// 1 / rms of a row of x from the sum of its squares.
fn norm_factor(squares: f32) -> f32 {
  return 1.0 / sqrt(squares * params.inverse_cols + params.norm_eps);
}

// Rows of a tile of the weight layout: [tile][unit of K][TILE rows] vec4<u32>, see matrix.ts.
const TILE = 32u;

// Rows of this call.
fn num_rows_of_call() -> u32 {
  let rows = num_rows_of(params.rows);
  return min(rows - min(rows, params.first_row), params.max_rows);
}

// Stores a finished sum as column n of row m of this call, and returns what it became. `up`: the up projection's sum of a gated matrix.
// `factor`: of the row, by its norm.
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
