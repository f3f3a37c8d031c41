// Bindings that the sampling kernels share. Logits are raw f32 [rows from first_row on, vocab]; a row's spec is SPEC_WORDS words of the step buffer
// (step-layout.ts writes them).
#include "step.wgsl"

struct SampleParams {
  vocab: u32,
  mask_words: u32, // words per row of `masks`
  num_chunks: u32, // workgroups a row
  chunk: u32, // tokens per workgroup
  first_row: u32, // of the rows whose logits are bound
}

@group(0) @binding(1) var<uniform> params: SampleParams;
@group(0) @binding(2) var<storage, read_write> logits: array<f32>;
@group(0) @binding(3) var<storage, read> masks: array<u32>; // [sample rows, mask_words]
// [sample rows, num_chunks, 2]: of each chunk, the largest value's bits and its token
@group(0) @binding(4) var<storage, read_write> maxima: array<u32>;
@group(0) @binding(5) var<storage, read_write> filters: array<atomic<u32>>; // [sample rows, FILTER_WORDS], see filter-io.wgsl
@group(0) @binding(6) var<storage, read_write> sampled: array<i32>;
@group(0) @binding(7) var<storage, read_write> results: array<u32>;
@group(0) @binding(8) var<storage, read_write> adjustments: array<u32>; // [entries, 4]: token, delta, delta if that token is pending, the raw logit while it is adjusted

// Words of a row of `filters`: its threshold, and from LIST on room for so many tokens.
const THRESHOLD = 769u;
const LIST = 772u;
const LIST_CAPACITY = $(LIST_CAPACITY)u;
const FILTER_WORDS = LIST + LIST_CAPACITY;

const RESULT_TOKENS = 64u; // behind the timestamps
const RESULT_WORDS = 42u; // of a row's log-probabilities
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
  min_z: f32, // threshold of min-p, or below every z
  key0: u32,
  key1: u32,
  penalty: f32,
  inverse_penalty: f32,
  first_adjustment: u32,
  num_penalized: u32, // leading entries
  num_adjustments: u32,
  logprobs: i32, // topN, or -1
  pending: i32, // the sample row of the previous step whose token counts too, or -1
  pending_delta: f32, // its adjustment where no entry has it; the last entry is kept free for it
  result: u32, // words from the start of `results` to the row's log-probabilities
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

// Logit after adjustments and mask, BANNED_LOGIT when the token is out.
fn value_of(row: u32, token: u32, flags: u32) -> f32 {
  let value = logits[(row - params.first_row) * params.vocab + token];
  if ((flags & FLAG_MASK) != 0u && ((masks[row * params.mask_words + (token >> 5u)] >> (token & 31u)) & 1u) == 0u) {
    return BANNED_LOGIT;
  }
  return max(value, BANNED_LOGIT);
}
