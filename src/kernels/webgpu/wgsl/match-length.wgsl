// x *= rms(reference) / max(rms(x), sqrt(1e-5))
//
//   launch   x = rows; workgroup = WS threads
#include "step.wgsl"

struct MatchLengthParams {
  cols: u32,
  x_stride: u32,
  reference_stride: u32,
  inverse_cols: f32,
}

@group(0) @binding(1) var<uniform> params: MatchLengthParams;
@group(0) @binding(2) var<storage, read> reference: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

#include "row-sums.wgsl"

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let base = group.x * params.x_stride;
  var sum = 0.0;
  var wanted_sum = 0.0;
  for (var i = lane; i < params.cols; i += $(WS)u) {
    let wanted = reference[group.x * params.reference_stride + i];
    wanted_sum = fma(wanted, wanted, wanted_sum);
    sum = fma(x[base + i], x[base + i], sum);
  }
  let wanted_square = total(wanted_sum, lane) * params.inverse_cols;
  let factor = sqrt(wanted_square / max(total(sum, lane) * params.inverse_cols, 1e-5));
  for (var i = lane; i < params.cols; i += $(WS)u) {
    x[base + i] *= factor;
  }
}
