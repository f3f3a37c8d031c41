// Chooses the top_k experts of each row: softmax or sigmoid of the logits, then the best expert, one after another.
//
//   logits   f32 [rows, stride]
//   launch   x = rows; workgroup = 64 threads. Thread t has the experts t, t + 64, ...; sums and maxima of the threads are combined pairwise.
#include "step.wgsl"

struct RouteParams {
  num_experts: u32,
  stride: u32,
  top_k: u32,
  flags: u32,
  groups: u32, // 0: all experts are candidates
  used_groups: u32,
  scale: f32,
  max_pairs: u32,
}

const FLAG_SIGMOID = 1u;
const FLAG_BIAS = 2u;
const FLAG_NORMALIZES = 4u;
const FLAG_SCALES = 8u;
const NEVER = -3.4e38;

@group(0) @binding(1) var<uniform> params: RouteParams;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> routing: array<u32>;
@group(0) @binding(5) var<storage, read> expert_scales: array<f32>;
#include "routing.wgsl"

var<workgroup> scores: array<f32, $(EXPERTS)>;
var<workgroup> ranked: array<f32, $(EXPERTS)>;
var<workgroup> sums: array<f32, $(EXPERTS)>; // of groups
var<workgroup> values: array<f32, 64>;
var<workgroup> indices: array<u32, 64>;

fn total(value: f32, lane: u32) -> f32 {
  values[lane] = value;
  workgroupBarrier();
  for (var half = 32u; half > 0u; half >>= 1u) {
    if (lane < half) {
      values[lane] += values[lane + half];
    }
    workgroupBarrier();
  }
  let sum = values[0];
  workgroupBarrier();
  return sum;
}

// The index of the largest of ranked[first .. end - 1]; the lowest index among equals.
fn best(first: u32, end: u32, lane: u32) -> u32 {
  var value = NEVER;
  var index = first;
  for (var i = first + lane; i < end; i += 64u) {
    if (ranked[i] > value) {
      value = ranked[i];
      index = i;
    }
  }
  values[lane] = value;
  indices[lane] = index;
  workgroupBarrier();
  for (var half = 32u; half > 0u; half >>= 1u) {
    if (lane < half) {
      let other = values[lane + half];
      if (other > values[lane] || (other == values[lane] && indices[lane + half] < indices[lane])) {
        values[lane] = other;
        indices[lane] = indices[lane + half];
      }
    }
    workgroupBarrier();
  }
  let found = indices[0];
  workgroupBarrier();
  return found;
}

// Excludes the experts outside the best groups. A group's score is the sum of its two best experts, as in DeepSeek-V3
// (https://arxiv.org/abs/2412.19437).
fn drop_groups(lane: u32) {
  let size = params.num_experts / params.groups;
  for (var group = lane; group < params.groups; group += 64u) {
    var first = NEVER;
    var second = NEVER;
    for (var i = group * size; i < (group + 1u) * size; i++) {
      let value = ranked[i];
      second = max(second, min(first, value));
      first = max(first, value);
    }
    sums[group] = select(first + second, first, size == 1u);
  }
  workgroupBarrier();
  for (var group = lane; group < params.groups; group += 64u) {
    // The number of groups that are better; of equal groups, the earlier one is.
    var better = 0u;
    for (var other = 0u; other < params.groups; other++) {
      if (sums[other] > sums[group] || (sums[other] == sums[group] && other < group)) {
        better++;
      }
    }
    if (better >= params.used_groups) {
      for (var i = group * size; i < (group + 1u) * size; i++) {
        ranked[i] = NEVER;
      }
    }
  }
  workgroupBarrier();
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let base = group.x * params.stride;
  let is_sigmoid = (params.flags & FLAG_SIGMOID) != 0u;
  for (var i = lane; i < params.num_experts; i += 64u) {
    ranked[i] = logits[base + i];
  }
  workgroupBarrier();
  let most = ranked[best(0u, params.num_experts, lane)];
  workgroupBarrier();
  var sum = 0.0;
  for (var i = lane; i < params.num_experts; i += 64u) {
    let score = select(exp(ranked[i] - most), 1.0 / (1.0 + exp(-ranked[i])), is_sigmoid);
    scores[i] = score;
    sum += score;
  }
  let whole = total(sum, lane);
  for (var i = lane; i < params.num_experts; i += 64u) {
    let score = select(scores[i] / whole, scores[i], is_sigmoid);
    scores[i] = score;
    ranked[i] = score;
    if ((params.flags & FLAG_BIAS) != 0u) {
      ranked[i] += bias[i];
    }
  }
  workgroupBarrier();
  if (params.groups != 0u) {
    drop_groups(lane);
  }
  let first_pair = group.x * params.top_k;
  var chosen = 0.0;
  for (var k = 0u; k < params.top_k; k++) {
    let index = best(0u, params.num_experts, lane);
    if (lane == 0u) {
      routing[first_pair + k] = index;
      ranked[index] = NEVER;
    }
    chosen += scores[index];
    workgroupBarrier();
  }
  let factor = select(params.scale, params.scale / chosen, (params.flags & FLAG_NORMALIZES) != 0u);
  for (var k = lane; k < params.top_k; k += 64u) {
    let expert = routing[first_pair + k];
    var weight = scores[expert] * factor;
    if ((params.flags & FLAG_SCALES) != 0u) {
      weight *= expert_scales[expert];
    }
    routing[weight_of(params.max_pairs, first_pair + k)] = bitcast<u32>(weight);
  }
}
