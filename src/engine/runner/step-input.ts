/** StepPlan (sequences, as the scheduler plans them) -> StepInput (rows, as backends take them). */
import type { BackendLimits, StepInput } from '../../kernels/ops.ts'
import type { SampleRow, ScoreRow } from '../../kernels/sample-spec.ts'
import { RunnerError, type StepPlan } from './runner.ts'

interface PlannedStep {
  readonly input: StepInput
  /** Rows are indexes into `input.outputRows`. */
  readonly samples: readonly SampleRow[]
  readonly scores: readonly ScoreRow[]
}

interface PlanLimits extends BackendLimits {
  readonly blockSize: number
  readonly numBlocks: number
  /** 0: the model keeps no states. */
  readonly numStateSlots: number
  readonly numAdapters: number
  readonly vocabSize: number
}

/** Lays plans out as rows. It owns three sets of arrays and uses them in turn, because up to two steps may be in flight. */
export class StepLayout {
  readonly #limits: PlanLimits
  readonly #buffers: {
    tokens: Int32Array
    positions: Int32Array
    slots: Int32Array
    starts: Int32Array
    tables: Int32Array
    stateSlots: Int32Array
    adapters: Int32Array
    outputRows: Int32Array
  }[]
  #next = 0

  constructor(limits: PlanLimits) {
    this.#limits = limits
    this.#buffers = Array.from({ length: 3 }, () => ({
      tokens: new Int32Array(limits.maxRows),
      positions: new Int32Array(limits.maxRows),
      slots: new Int32Array(limits.maxRows),
      starts: new Int32Array(limits.maxSequences + 1),
      tables: new Int32Array(limits.maxSequences * limits.maxBlocksPerSequence),
      stateSlots: new Int32Array(2 * limits.maxSequences),
      adapters: new Int32Array(limits.numAdapters === 0 ? 0 : limits.maxRows),
      outputRows: new Int32Array(limits.maxRows),
    }))
  }

  /**
   * @throws RunnerError (`engine_error`) with the number at fault and the sequence for a plan that breaks the limits, which is a bug in the scheduler
   */
  plan(plan: StepPlan): PlannedStep {
    const {
      maxRows,
      maxSequences,
      maxSampleRows,
      maxBlocksPerSequence,
      blockSize,
      numBlocks,
      numStateSlots,
      numAdapters,
      vocabSize,
    } = this.#limits
    let current: number | null = null
    const check = (ok: boolean, problem: () => string): void => {
      if (!ok) throw new RunnerError('engine_error', `step ${plan.stepId}: ${problem()}`, { sequence: current })
    }
    check(plan.sequences.length <= maxSequences, () => `${plan.sequences.length} sequences, at most ${maxSequences}`)
    for (const { source, destination, numTokens } of plan.blockCopies) {
      const isBlock = (block: number): boolean => Number.isInteger(block) && block >= 0 && block < numBlocks
      check(
        isBlock(source) && isBlock(destination) && numTokens >= 0 && numTokens <= blockSize,
        () => `copy of ${numTokens} tokens ${source} -> ${destination}`,
      )
    }
    const { tokens, positions, slots, starts, tables, stateSlots, adapters, outputRows } = this.#buffers[this.#next]!
    this.#next = (this.#next + 1) % this.#buffers.length
    const samples: SampleRow[] = []
    const scores: ScoreRow[] = []
    let row = 0
    let numOutputs = 0
    let isAdapted = false
    for (const [s, sequence] of plan.sequences.entries()) {
      current = s
      const { tokenSource, startPosition, blockTable, adapter = -1, state, sample, score } = sequence
      const count = 'ids' in tokenSource ? tokenSource.ids.length : 1
      const used = Math.ceil((startPosition + count) / blockSize)
      check(count > 0, () => `sequence ${s} has no tokens`)
      check(row + count <= maxRows, () => `${row + count} rows, at most ${maxRows}`)
      check(
        used <= blockTable.length && used <= maxBlocksPerSequence,
        () =>
          `sequence ${s} needs ${used} blocks of at most ${maxBlocksPerSequence}, its table has ${blockTable.length}`,
      )
      check(sample.length <= count, () => `sequence ${s} samples ${sample.length} rows of ${count}`)
      check(
        score === null || score.targets.length <= count,
        () => `sequence ${s} scores ${score?.targets.length} rows of ${count}`,
      )
      check(
        numStateSlots === 0
          ? state === undefined
          : state !== undefined && state.read < numStateSlots && state.write >= 0 && state.write < numStateSlots,
        () => `sequence ${s} keeps its state in slots ${state?.read} and ${state?.write} of ${numStateSlots}`,
      )
      check(
        state === undefined || state.read >= 0 || startPosition === 0,
        () => `sequence ${s} goes on without its state`,
      )
      check(adapter < numAdapters, () => `sequence ${s} has adapter ${adapter} of ${numAdapters}`)
      adapters.fill(adapter, row, row + count)
      isAdapted ||= adapter >= 0
      starts[s] = row
      stateSlots[2 * s] = state?.read ?? -1
      stateSlots[2 * s + 1] = state?.write ?? -1
      for (let i = 0; i < used; i++) {
        const block = blockTable[i]!
        check(block >= 0 && block < numBlocks, () => `sequence ${s} names block ${block} of ${numBlocks}`)
        tables[s * maxBlocksPerSequence + i] = block
      }
      for (let i = 0; i < count; i++) {
        const position = startPosition + i
        const token = 'ids' in tokenSource ? tokenSource.ids[i]! : -(tokenSource.fromPreviousStep + 1)
        check(
          token < vocabSize && ('fromPreviousStep' in tokenSource || token >= 0),
          () => `sequence ${s} has token ${token}, vocabulary ${vocabSize}`,
        )
        tokens[row + i] = token
        positions[row + i] = position
        slots[row + i] = blockTable[Math.floor(position / blockSize)]! * blockSize + (position % blockSize)
      }
      // Scored rows are a sequence's first, sampled ones its last; they may overlap.
      const numScored = score?.targets.length ?? 0
      const firstSampled = count - sample.length
      score?.targets.forEach((target, i) => scores.push({ row: numOutputs + i, target, topN: score.topN }))
      const sampledAt = numOutputs + Math.min(numScored, firstSampled)
      for (const [i, spec] of sample.entries()) samples.push({ row: sampledAt + i, spec })
      for (let i = 0; i < count; i++) if (i < numScored || i >= firstSampled) outputRows[numOutputs++] = row + i
      row += count
    }
    current = null
    check(samples.length <= maxSampleRows, () => `${samples.length} sample rows, at most ${maxSampleRows}`)
    starts[plan.sequences.length] = row
    const input = {
      numRows: row,
      numSequences: plan.sequences.length,
      tokens,
      positions,
      slots,
      sequenceStarts: starts,
      blockTables: tables,
      maxBlocksPerSequence,
      outputRows: outputRows.subarray(0, numOutputs),
      ...(numStateSlots === 0 ? {} : { stateSlots }),
      ...(isAdapted ? { adapters } : {}),
    }
    return { input, samples, scores }
  }
}
