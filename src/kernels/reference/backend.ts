/**
 * The reference backend: every op in plain TypeScript. Each row is computed separately, in a fixed order, with f64 sums. Kernel tests compare
 * the other backends with it, and it is the fallback where no other backend runs; the bundled model is usable on it. Weights are widened to
 * f32 on load.
 */
import { cpus } from 'node:os'
import type { InspectableBackend } from '../inspect.ts'
import type { BackendInfo, BackendOptions, OpSequence, RepeatedOps } from '../backend.ts'
import type { Activation, LogitsOptions, Matrix, StepInput, StepOutput } from '../ops.ts'
import type { SampleRow, ScoreRow } from '../sample-spec.ts'
import { resolvePending, Sampler, tokenLogprobs } from '../sampling.ts'
import { TILE_ROWS } from './row-tile.ts'
import { LayerOps, NO_RESULTS } from './layer-ops.ts'

class ReferenceBackend extends LayerOps implements InspectableBackend {
  #sampler: Sampler | null = null
  #previousSampled: Int32Array = new Int32Array(0)
  #closed = false

  get info(): BackendInfo {
    return {
      kind: 'reference',
      adapter: cpus()[0]?.model ?? 'unknown CPU',
      driver: `node ${process.version}`,
      isSoftware: true,
      kvFormat: this.options.kvFormat === 'q8' ? 'q8' : 'f32',
      hasTimestamps: false,
      memoryBudgetBytes: null,
    }
  }

  record(label: string, ops: () => void): RepeatedOps {
    return { label, ops }
  }

  ready(): Promise<void> {
    return Promise.resolve()
  }

  copyBlock(source: number, destination: number, numTokens: number): void {
    this.kvPool().copyBlock(source, destination, numTokens)
  }

  run(sequence: OpSequence): void {
    ;(sequence as RepeatedOps).ops()
  }

  beginStep(input: StepInput): void {
    if (this.#closed) throw new Error('the backend is closed')
    const { maxRows, maxSequences } = this.options.limits
    if (input.numRows > maxRows || input.numSequences > maxSequences) {
      throw new Error(
        `step of ${input.numRows} rows, ${input.numSequences} sequences exceeds the limits ${maxRows}, ${maxSequences}`,
      )
    }
    this.stepId++
    this.input = input
    this.#previousSampled = this.results.sampled
    this.results = { ...NO_RESULTS, sampledLogprobs: [], scores: [] }
    for (let row = 0; row < input.numRows; row++) {
      const token = input.tokens[row]!
      this.tokens[row] = token >= 0 ? token : this.#previousSampled[-token - 1]!
    }
  }

  sample(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly SampleRow[]): void {
    const { positions } = this.stepInput()
    const logits = this.#computeLogits(x, head, options, rows)
    const vocab = head.rows
    this.#sampler ??= new Sampler(vocab)
    const sampled = new Int32Array(rows.length)
    for (const [i, { row, spec }] of rows.entries()) {
      const own = logits.subarray(i * vocab, (i + 1) * vocab)
      sampled[i] = this.#sampler.sample(own, resolvePending(spec, this.#previousSampled), positions[row]! + 1)
      this.results.sampledLogprobs.push(spec.logprobs < 0 ? null : tokenLogprobs(own, sampled[i]!, spec.logprobs))
    }
    this.results.sampled = sampled
    this.results.logits = logits
  }

  score(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly ScoreRow[]): void {
    const vocab = head.rows
    // In chunks, so that a long prompt does not need [prompt, vocab] logits at once.
    for (let first = 0; first < rows.length; first += TILE_ROWS) {
      const chunk = rows.slice(first, first + TILE_ROWS)
      const logits = this.#computeLogits(x, head, options, chunk, new Float32Array(chunk.length * vocab))
      for (const [i, { target, topN }] of chunk.entries()) {
        this.results.scores.push(tokenLogprobs(logits.subarray(i * vocab, (i + 1) * vocab), target, topN))
      }
    }
  }

  endStep(options?: { readonly logits?: boolean }): Promise<StepOutput> {
    const { sampled, sampledLogprobs, scores, logits, pooled } = this.results
    this.input = null
    return Promise.resolve({
      sampled,
      sampledLogprobs,
      scores,
      logits: options?.logits === true ? (logits?.slice() ?? new Float32Array(0)) : null,
      pooled,
      gpuMicros: null,
      kernels: null,
    })
  }

  readBlocks(blocks: readonly number[]): Promise<Uint8Array> {
    return Promise.resolve(this.kvPool().read(blocks))
  }

  writeBlocks(blocks: readonly number[], bytes: Uint8Array): Promise<void> {
    this.kvPool().write(blocks, bytes)
    return Promise.resolve()
  }

  debugWrite(activation: Activation, values: Float32Array): void {
    const { label, cols, values: target } = this.activations.get(activation)
    if (values.length % cols !== 0 || values.length > target.length)
      throw new Error(`debugWrite ${label}: ${values.length} values do not fit rows of ${cols}`)
    target.set(values)
  }

  debugRead(activation: Activation): Promise<Float32Array> {
    return Promise.resolve(this.activations.get(activation).values.slice())
  }

  close(): Promise<void> {
    this.#closed = true
    this.clear()
    return Promise.resolve()
  }

  #computeLogits(
    x: Activation,
    head: Matrix,
    { norm, softcap, scale }: LogitsOptions,
    rows: readonly { readonly row: number }[],
    target?: Float32Array,
  ): Float32Array {
    const source = this.activations.get(x)
    const matrix = this.matrices.get(head)
    const vocab = matrix.rows
    if (target === undefined && this.logits.length < rows.length * vocab)
      this.logits = new Float32Array(rows.length * vocab)
    const logits = target ?? this.logits.subarray(0, rows.length * vocab)
    const hostNorm = this.hostNorm(norm)
    for (let first = 0; first < rows.length; first += TILE_ROWS) {
      const count = Math.min(TILE_ROWS, rows.length - first)
      this.tile.multiply(source.values, (i) => rows[first + i]!.row, count, matrix, hostNorm)
      for (let i = 0; i < count * vocab; i++) {
        const value = this.tile.products[i]! * scale
        logits[first * vocab + i] = softcap === null ? value : softcap * Math.tanh(value / softcap)
      }
    }
    return logits
  }
}

/** Creates a backend that runs in this thread. It has no requirements on the machine. */
export function createReferenceBackend(options: BackendOptions): InspectableBackend {
  return new ReferenceBackend(options)
}
