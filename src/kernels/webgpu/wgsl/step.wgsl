// The step buffer: everything that the host decides for each step. step-layout.ts writes it, and its HEADER has the indices below. The header holds
// the offsets of the sections, in words; the sections follow it without gaps.
@group(0) @binding(0) var<storage, read> step: array<i32>;

const NUM_ROWS = 0u;
const TOKENS = 1u; // [rows] token, or -(i + 1): sample row i of the previous step
const POSITIONS = 2u; // [rows]
const SLOTS = 3u; // [rows]
const BLOCK_TABLES = 4u; // [sequences, TABLE_STRIDE]
const TABLE_STRIDE = 5u;
const NUM_SAMPLE_ROWS = 6u;
const SAMPLE_ROWS = 7u; // [sample rows] row of the step
const NUM_SCORE_ROWS = 8u;
const SCORE_ROWS = 9u; // [score rows] row of the step
const SCORE_TARGETS = 10u; // [score rows, 2] target token, topN
const SAMPLE_SPECS = 11u; // [sample rows, SPEC_WORDS]
const CURRENT_TOKENS = 12u; // offset into `sampled` of this step's tokens
const PREVIOUS_TOKENS = 13u; // offset into `sampled` of the previous step's tokens
const SCORE_RESULTS = 17u; // word of the results buffer where the scores begin
const PLACES = 18u; // [rows] row of the table that embedAdd gathers from
const SEQUENCE_STARTS = 19u; // [sequences + 1] first row of each
const STATE_RUNS = 20u; // [sequences, 4] first row, end row, slot read or -1, slot written
const ADAPTERS = 21u; // [rows] the row's adapter or -1
// The rows that keepOutputs keeps. Where it keeps all, positions and adapters are the sections above.
const NUM_OUTPUT_ROWS = 22u;
const OUTPUT_ROWS = 23u; // [output rows] row of the step
const OUTPUT_POSITIONS = 24u;
const OUTPUT_ADAPTERS = 25u;

// Words of an attention plan, relative to its first (step-layout.ts).
const NUM_SINGLE_ITEMS = 0u;
const ATTENTION_ITEMS = 1u; // [items, ITEM_WORDS]
const ATTENTION_ROWS = 2u; // [split rows, 3] row, first partial, number of partials

fn header(index: u32) -> u32 {
  return u32(step[index]);
}
