/** Puts texts into steps: sequences of different lengths one after the other, without padding. */
import type { BackendLimits, StepInput } from '../../../kernels/ops.ts'
import type { TokenRow } from './special-tokens.ts'

export const BLOCK_SIZE = 16

/** Limits that a pass is created with. */
export interface BatchLimits {
  readonly maxTokens: number
  readonly maxRows: number
  readonly maxSequences: number
}

/** The limits of a backend that runs such steps. */
export function backendLimits({ maxTokens, maxRows, maxSequences }: BatchLimits): BackendLimits {
  return { maxRows, maxSequences, maxSampleRows: 1, maxBlocksPerSequence: Math.ceil(maxTokens / BLOCK_SIZE) }
}

/** The most KV blocks that a step takes. Each sequence begins in a new block. */
export const blocksOf = ({ maxRows, maxSequences }: BatchLimits): number =>
  Math.ceil(maxRows / BLOCK_SIZE) + maxSequences

/** The indexes of each step's texts: shortest texts first, as many per step as the limits allow. */
export function* stepsOf(
  rows: readonly TokenRow[],
  { maxRows, maxSequences }: BatchLimits,
): Generator<readonly number[]> {
  const order = rows.map((_, i) => i).sort((a, b) => rows[a]!.ids.length - rows[b]!.ids.length)
  let step: number[] = []
  let numRows = 0
  for (const index of order) {
    const { length } = rows[index]!.ids
    if (step.length > 0 && (numRows + length > maxRows || step.length === maxSequences)) {
      yield step
      step = []
      numRows = 0
    }
    step.push(index)
    numRows += length
  }
  if (step.length > 0) yield step
}

/**
 * The input of a step with these sequences.
 * @param placeOf gives the row of the table of places for a position and a segment
 */
export function stepInput(
  sequences: readonly TokenRow[],
  { maxTokens }: BatchLimits,
  placeOf: (position: number, segment: number) => number,
): StepInput {
  const numRows = sequences.reduce((sum, { ids }) => sum + ids.length, 0)
  const maxBlocksPerSequence = Math.ceil(maxTokens / BLOCK_SIZE)
  const input = {
    numRows,
    numSequences: sequences.length,
    tokens: new Int32Array(numRows),
    positions: new Int32Array(numRows),
    slots: new Int32Array(numRows),
    places: new Int32Array(numRows),
    sequenceStarts: new Int32Array(sequences.length + 1),
    blockTables: new Int32Array(sequences.length * maxBlocksPerSequence),
    maxBlocksPerSequence,
  }
  let row = 0
  let block = 0
  for (const [s, { ids, segments }] of sequences.entries()) {
    input.sequenceStarts[s] = row
    for (let i = 0; i * BLOCK_SIZE < ids.length; i++) input.blockTables[s * maxBlocksPerSequence + i] = block + i
    for (let position = 0; position < ids.length; position++, row++) {
      input.tokens[row] = ids[position]!
      input.positions[row] = position
      input.slots[row] = block * BLOCK_SIZE + position
      input.places[row] = placeOf(position, segments[position] ?? 0)
    }
    block += Math.ceil(ids.length / BLOCK_SIZE)
  }
  input.sequenceStarts[sequences.length] = row
  return input
}
