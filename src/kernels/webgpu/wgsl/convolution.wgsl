// Causal depthwise convolution over a sequence's tokens, with a kernel of K. It continues from the sequence's state and writes the new state.
//
//   x        f32 [rows, x_stride]; GATED: B, C and the input, `channels` columns each: out = C * convolution(B * input). Else silu(convolution(x))
//   states   f32 [slots, slot_values]; a slot begins with the K - 1 inputs before the first row, [K - 1, channel_pitch]
//   out      f32 [rows, out_stride]
//   launch   x = blocks of WS channels, y = sequences; one thread per channel, so the slot written may be the slot read
#include "state-run.wgsl"

struct ConvolutionParams {
  channels: u32,
  channel_pitch: u32,
  x_stride: u32,
  x_offset: u32,
  out_stride: u32,
  slot_values: u32,
}

@group(0) @binding(1) var<uniform> params: ConvolutionParams;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>; // [channels, K]
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> states: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let channel = group.x * $(WS)u + lane;
  if (channel >= params.channels) {
    return;
  }
  let run = load_run(group.y);
#repeat j K - 1
  var past$(j) = 0.0;
#end
  if (run.read >= 0) {
    let before = u32(run.read) * params.slot_values + channel;
#repeat j K - 1
    past$(j) = states[before + $(j)u * params.channel_pitch];
#end
  }
#repeat j K
  let weight$(j) = weight[channel * $(K)u + $(j)u];
#end
#if BIAS
  let start = bias[channel];
#else
  let start = 0.0;
#endif
  for (var row = run.first_row; row < run.end_row; row++) {
    let at = row * params.x_stride + params.x_offset + channel;
#if GATED
    let input = x[at] * x[at + 2u * params.channels];
#else
    let input = x[at];
#endif
    var sum = start;
#repeat j K - 1
    sum = fma(weight$(j), past$(j), sum);
#end
    sum = fma(weight$(K - 1), input, sum);
#if GATED
    out[row * params.out_stride + channel] = x[at + params.channels] * sum;
#else
    out[row * params.out_stride + channel] = sum / (1.0 + exp(-sum));
#endif
#repeat j K - 2
    past$(j) = past$(j + 1);
#end
    past$(K - 2) = input;
  }
  let to = run.write * params.slot_values + channel;
#repeat j K - 1
  states[to + $(j)u * params.channel_pitch] = past$(j);
#end
}
