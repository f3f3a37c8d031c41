// Bindings that the sampling kernels share. Logits are f32 [rows from first_row on, vocab]; a row's spec is SPEC_WORDS words of the step buffer,
// written by sample-specs.ts.
#include "step.wgsl"

struct SampleParams {
  vocab: u32,
  mask_words: u32, // words per row of `masks`
  num_chunks: u32, // workgroups per row
  chunk: u32, // tokens per workgroup
  first_row: u32, // of the rows whose logits are bound
}

@group(0) @binding(1) var<uniform> params: SampleParams;
@group(0) @binding(2) var<storage, read_write> logits: array<f32>;
@group(0) @binding(3) var<storage, read> masks: array<u32>; // [sample rows, mask_words]
// [2, sample rows, num_chunks, 2]: the largest value of each chunk (its bits) and its token; of the first pass, then of the draw (sample-max.wgsl)
@group(0) @binding(4) var<storage, read_write> maxima: array<u32>;
@group(0) @binding(5) var<storage, read_write> filters: array<atomic<u32>>; // [sample rows, FILTER_WORDS], see filter-io.wgsl
@group(0) @binding(6) var<storage, read_write> sampled: array<i32>;
@group(0) @binding(7) var<storage, read_write> results: array<u32>;
// [entries, 4]: token, delta, delta if the token is pending, the raw logit while it is adjusted
@group(0) @binding(8) var<storage, read_write> adjustments: array<u32>;

// Words of a row of `filters`: its threshold, and the list of up to LIST_CAPACITY tokens from LIST on.
const THRESHOLD = 769u;
const LIST = 772u;
const LIST_CAPACITY = $(LIST_CAPACITY)u;
const FILTER_WORDS = LIST + LIST_CAPACITY;

const RESULT_TOKENS = 64u; // after the timestamps
const RESULT_WORDS = 42u; // words of one row's log-probabilities
const SPEC_WORDS = 16u;
const FLAG_GREEDY = 1u;
const FLAG_MASK = 2u;
const FLAG_TOP_P = 4u;
const FLAG_FILTER = 8u; // any of top-k, top-p, min-p
const BANNED_LOGIT = -1e30;

struct Spec {
  flags: u32,
  inverse_temperature: f32,
  top_k: u32,
  top_p: f32,
  min_z: f32, // threshold of min-p; without min-p, a value below every z
  key0: u32,
  key1: u32,
  penalty: f32,
  inverse_penalty: f32,
  first_adjustment: u32,
  num_penalized: u32, // so many leading entries have the repetition penalty
  num_adjustments: u32,
  logprobs: i32, // topN, or -1
  pending: i32, // sample row of the previous step that sampled the pending token, or -1
  pending_delta: f32, // adjustment of a pending token that has no entry of its own; the last entry is reserved for it
  result: u32, // word of `results` where the row's log-probabilities begin
}

fn load_spec(row: u32) -> Spec {
  let at = header(SAMPLE_SPECS) + row * SPEC_WORDS;
  return Spec(
    u32(step[at]),
    bitcast<f32>(step[at + 1u]),
    u32(step[at + 2u]),
    bitcast<f32>(step[at + 3u]),
    bitcast<f32>(step[at + 4u]),
    bitcast<u32>(step[at + 5u]),
    bitcast<u32>(step[at + 6u]),
    bitcast<f32>(step[at + 7u]),
    bitcast<f32>(step[at + 8u]),
    u32(step[at + 9u]),
    u32(step[at + 10u]),
    u32(step[at + 11u]),
    step[at + 12u],
    step[at + 13u],
    bitcast<f32>(step[at + 14u]),
    u32(step[at + 15u]),
  );
}

// The logit of a token (adjusted, see sample-adjust.wgsl) after the mask; BANNED_LOGIT where the token is excluded.
fn value_of(row: u32, token: u32, flags: u32) -> f32 {
  let value = logits[(row - params.first_row) * params.vocab + token];
  if ((flags & FLAG_MASK) != 0u && ((masks[row * params.mask_words + (token >> 5u)] >> (token & 31u)) & 1u) == 0u) {
    return BANNED_LOGIT;
  }
  return max(value, BANNED_LOGIT);
}
