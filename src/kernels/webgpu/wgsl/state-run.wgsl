// A sequence's rows of the step, and its slots of the pool of states.
#include "step.wgsl"

struct Run {
  first_row: u32,
  end_row: u32,
  read: i32, // -1: the text begins
  write: u32,
}

fn load_run(sequence: u32) -> Run {
  let at = header(STATE_RUNS) + 4u * sequence;
  return Run(u32(step[at]), u32(step[at + 1u]), step[at + 2u], u32(step[at + 3u]));
}
