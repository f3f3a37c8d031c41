// Predicts or (CORRECTS) corrects N residual streams (StreamOptions of ops.ts; AltUp, https://arxiv.org/abs/2301.13310).
// c = coefficients tanh(logits of the row).
//
//   launch   x = rows; workgroup = WS threads over the columns
struct StreamsParams {
  cols: u32,
  x_stride: u32,
  stream_stride: u32,
  logits_stride: u32,
}

@group(0) @binding(0) var<uniform> params: StreamsParams;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> coefficients: array<f32>;
@group(0) @binding(3) var<storage, read> scales: array<f32>; // [cols], CORRECTS only
@group(0) @binding(4) var<storage, read_write> x: array<f32>; // the active stream
#repeat i N
@group(0) @binding($(i + 5)) var<storage, read_write> stream$(i): array<f32>;
#end

var<workgroup> c: array<f32, $(N * N)>;

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  if (lane < $(COUNT)u) {
    var sum = 0.0;
    for (var j = 0u; j < $(N)u; j++) {
      // Implementations of tanh that use exp overflow for large arguments. From 10 on, tanh rounds to 1 in f32.
      let modality = tanh(clamp(logits[group.x * params.logits_stride + j], -10.0, 10.0));
      sum = fma(coefficients[lane * $(N)u + j], modality, sum);
    }
    c[lane] = sum;
  }
  workgroupBarrier();
  for (var i = lane; i < params.cols; i += $(WS)u) {
    let at = group.x * params.stream_stride + i;
    let own = group.x * params.x_stride + i;
#repeat i N
    let before$(i) = stream$(i)[at];
#end
#if CORRECTS
    let innovation = x[own] - before$(ACTIVE);
#repeat i N
    let after$(i) = fma(1.0 + c[$(i)], innovation, before$(i));
    stream$(i)[at] = after$(i);
#end
    x[own] = after$(ACTIVE) * scales[i];
#else
#repeat i N
    var sum$(i) = 0.0;
#end
#repeat j N
#repeat i N
    sum$(i) = fma(c[$(i * N + j)], before$(j), sum$(i));
#end
#end
#repeat i N
    let after$(i) = before$(i) + sum$(i);
    stream$(i)[at] = after$(i);
#end
    x[own] = after$(ACTIVE);
#endif
  }
}
