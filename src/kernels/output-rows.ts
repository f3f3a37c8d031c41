/** The step after `keepOutputs`: only the rows that outputs need. */
import type { StepInput } from './ops.ts'

/** The step reduced to its output rows. Returns `input` itself when all rows are output rows: nothing has to move then. */
export function outputStep(input: StepInput): StepInput {
  const { numRows, numSequences, sequenceStarts, outputRows, blockTables, maxBlocksPerSequence, adapters } = input
  if (outputRows === undefined || outputRows.length === numRows) return input
  const taken = (values: Int32Array): Int32Array => Int32Array.from(outputRows, (row) => values[row]!)
  const starts = new Int32Array(numSequences + 1)
  let numTaken = 0
  for (let sequence = 0; sequence < numSequences; sequence++) {
    const end = sequenceStarts[sequence + 1]!
    while (numTaken < outputRows.length && outputRows[numTaken]! < end) numTaken++
    starts[sequence + 1] = numTaken
  }
  return {
    numRows: outputRows.length,
    numSequences,
    tokens: taken(input.tokens),
    positions: taken(input.positions),
    slots: taken(input.slots),
    sequenceStarts: starts,
    blockTables,
    maxBlocksPerSequence,
    ...(adapters === undefined ? {} : { adapters: taken(adapters) }),
  }
}
