// The rows of a sequence in the step, and its slots in the state pool.
#include "step.wgsl"

struct Run {
  first_row: u32,
  end_row: u32,
  read: i32, // -1: the sequence begins, with a state of zeros
  write: u32,
}

fn load_run(sequence: u32) -> Run {
  let at = header(STATE_RUNS) + 4u * sequence;
  return Run(u32(step[at]), u32(step[at + 1u]), step[at + 2u], u32(step[at + 3u]));
}
