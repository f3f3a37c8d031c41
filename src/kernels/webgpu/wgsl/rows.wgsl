// Which rows of the step an op works on.
#include "step.wgsl"

const ROWS_ALL = 0u;
const ROWS_SAMPLE = 1u;
const ROWS_SCORE = 2u;
const ROWS_OUTPUT = 3u; // keepOutputs has moved them to the front

fn num_rows_of(rows: u32) -> u32 {
  switch rows {
    case ROWS_SAMPLE: {
      return header(NUM_SAMPLE_ROWS);
    }
    case ROWS_SCORE: {
      return header(NUM_SCORE_ROWS);
    }
    case ROWS_OUTPUT: {
      return header(NUM_OUTPUT_ROWS);
    }
    default: {
      return header(NUM_ROWS);
    }
  }
}

// The row of the step for row `index` of an op.
fn source_row(rows: u32, index: u32) -> u32 {
  switch rows {
    case ROWS_SAMPLE: {
      return u32(step[header(SAMPLE_ROWS) + index]);
    }
    case ROWS_SCORE: {
      return u32(step[header(SCORE_ROWS) + index]);
    }
    default: {
      return index;
    }
  }
}
