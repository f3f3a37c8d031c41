/** The output of a step: draws tokens, scores prompts, pools rows. */
import type { BackendOptions } from '../backend.ts'
import type { Activation, LogitsOptions, Matrix, Pooling, StepInput } from '../ops.ts'
import type { SampleRow, ScoreRow, TokenLogprobs } from '../sample-spec.ts'
import { resolvePending } from '../sampling.ts'
import { poolRows } from '../pooling.ts'
import type { Arena } from './arena.ts'
import type { Executor } from './executor.ts'
import { PANEL, roundUp } from './matrices.ts'
import type { Recorder } from './recorder.ts'
import type { HostActivation } from './resources.ts'
import { SampleSpecs } from './sample-specs.ts'
import { ScoreRows } from './score-rows.ts'
import { LogitsBuffer, SCORE_ROWS } from './working-memory.ts'

/** The results of one step, whichever memory computed them. */
export interface StepResults {
  sampled: Int32Array
  sampledLogprobs: (TokenLogprobs | null)[]
  scores: TokenLogprobs[]
  pooled: Float32Array | null
  /** Copies the logits of the sampled rows, [rows, vocab]. */
  copyLogits: () => Float32Array
}

/** The results of a step that has computed no output yet. */
export function emptyResults(): StepResults {
  return {
    sampled: new Int32Array(0),
    sampledLogprobs: [],
    scores: [],
    pooled: null,
    copyLogits: () => new Float32Array(0),
  }
}

/** Logits, sampling and scores in the memory of the head. */
export class Output {
  readonly #arena: Arena
  readonly #recorder: Recorder
  readonly #executor: Executor
  // Separate buffers for sampled and scored rows, because a step may have both, in either order.
  readonly #logits: LogitsBuffer
  readonly #scored: LogitsBuffer
  readonly #specs: SampleSpecs
  readonly #scores: ScoreRows
  readonly #drawn: number // i32 [maxSampleRows]
  #results = emptyResults()
  #previous: Int32Array = new Int32Array(0)

  constructor(limits: BackendOptions['limits'], arena: Arena, recorder: Recorder, executor: Executor) {
    const { maxSequences, maxSampleRows } = limits
    this.#arena = arena
    this.#recorder = recorder
    this.#executor = executor
    // One row per sequence is usual; only draft tokens need more, and few servers use them.
    this.#logits = new LogitsBuffer(arena, Math.max(1, Math.min(maxSequences, maxSampleRows)), maxSampleRows)
    this.#scored = new LogitsBuffer(arena, SCORE_ROWS, SCORE_ROWS)
    this.#specs = new SampleSpecs(arena, maxSampleRows)
    this.#scores = new ScoreRows(arena, Math.max(SCORE_ROWS, maxSampleRows))
    this.#drawn = arena.allocate(Math.max(maxSampleRows, 1) * 4, 'sampled tokens')
  }

  /** Begins a step. Its output goes to `results`; the previous step drew the tokens `previous`. */
  begin(results: StepResults, previous: Int32Array): void {
    this.#results = results
    this.#previous = previous
  }

  /** Runs what is recorded, then pools the rows of each sequence on this thread: the work is small. */
  pool({ address, stride, cols }: HostActivation, pooling: Pooling, input: StepInput): void {
    this.#executor.run()
    const { numSequences, sequenceStarts } = input
    const pooled = new Float32Array(numSequences * cols)
    for (let sequence = 0; sequence < numSequences; sequence++) {
      const [start, end] = [sequenceStarts[sequence]!, sequenceStarts[sequence + 1]!]
      const rowAt = (row: number): Float32Array => this.#arena.f32(address + row * stride, cols)
      poolRows(pooling, start, end, rowAt, pooled.subarray(sequence * cols, (sequence + 1) * cols))
    }
    this.#results.pooled = pooled
  }

  /** Runs what is recorded and draws a token for each row. `positions`: those of all rows of the step. */
  sample(
    x: Activation,
    head: Matrix,
    options: LogitsOptions,
    rows: readonly SampleRow[],
    positions: ArrayLike<number>,
  ): void {
    const vocab = head.rows
    const stride = this.#recorder.logits(this.#logits, x, head, options, rows)
    const { address } = this.#logits
    const resolved = rows.map(({ row, spec }) => ({ row, spec: resolvePending(spec, this.#previous) }))
    this.#specs.write(resolved, positions, vocab)
    this.#recorder.sample(rows.length, address, stride, vocab, this.#specs.address, this.#drawn)
    const hasLogprobs = rows.some(({ spec }) => spec.logprobs >= 0)
    if (hasLogprobs) {
      for (const [i, { spec }] of rows.entries()) this.#scores.write(i, 0, spec.logprobs, vocab)
      this.#recorder.score(rows.length, address, stride, vocab, this.#scores.address, this.#drawn)
    }
    this.#executor.run()
    const sampled = this.#arena.i32(this.#drawn, rows.length).slice()
    for (const [i, { spec }] of rows.entries())
      this.#results.sampledLogprobs.push(spec.logprobs < 0 ? null : this.#scores.read(i, address + i * stride, vocab))
    this.#results.sampled = sampled
    this.#results.copyLogits = () => this.#copyLogits(rows.length, vocab)
  }

  /** Runs what is recorded and scores the target of each row. */
  score(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly ScoreRow[]): void {
    for (let first = 0; first < rows.length; first += SCORE_ROWS) {
      const chunk = rows.slice(first, first + SCORE_ROWS)
      const stride = this.#recorder.logits(this.#scored, x, head, options, chunk)
      const { address } = this.#scored
      for (const [i, { target, topN }] of chunk.entries()) this.#scores.write(i, target, topN, head.rows)
      this.#recorder.score(chunk.length, address, stride, head.rows, this.#scores.address, 0)
      this.#executor.run()
      for (const i of chunk.keys()) this.#results.scores.push(this.#scores.read(i, address + i * stride, head.rows))
    }
  }

  #copyLogits(numRows: number, vocab: number): Float32Array {
    const stride = roundUp(vocab, PANEL) * 4
    const logits = new Float32Array(numRows * vocab)
    for (let i = 0; i < numRows; i++) logits.set(this.#arena.f32(this.#logits.address + i * stride, vocab), i * vocab)
    return logits
  }
}
