/**
 * The WebGPU backend: the ops of kernels/ops.ts in WGSL, through Dawn, on any adapter. `ready` prepares everything that does not depend on the step
 * (shapes, pipelines, bind groups). A step launches prepared ops; endStep writes the step buffer, submits, and reads back one small buffer.
 */
import type { InspectableBackend } from '../inspect.ts'
import type { Backend, HeadCall, OpSequence } from '../backend.ts'
import type { AttentionOptions, HeadProductsOptions, QkvOptions } from '../attention-options.ts'
import type {
  ActivateOptions,
  Activation,
  Columns,
  ConvolutionOptions,
  ExpertsOptions,
  ExpertWeights,
  GatedDeltaOptions,
  KvLayout,
  LayerNorm,
  LinearOptions,
  LogitsOptions,
  LowRank,
  Matrix,
  Norm,
  Pooling,
  RouteOptions,
  Routing,
  SelectiveScanOptions,
  StepInput,
  StepOutput,
  StreamOptions,
  Vector,
} from '../ops.ts'
import type { SampleRow, ScoreRow } from '../sample-spec.ts'
import { outputStep } from '../output-rows.ts'
import { BlockTransfer } from './block-transfer.ts'
import { createRows, type PreparedOp } from './context.ts'
import { openDevice, type GpuDevice } from './device.ts'
import { embed, layerNorm, normAdd, pool } from './elementwise.ts'
import { headProducts } from './head-products.ts'
import type { KernelSource } from './pipelines.ts'
import { addRows, keepOutputs, matchLength, multiplyRows, rmsNorm, sparseGelu, streams } from './row-ops.ts'
import { uploadRope } from './rope.ts'
import { StepQueue } from './step-queue.ts'
import { GpuMemory, type WebGpuBackendOptions } from './memory.ts'

/** A recorded sequence of ops and, from `ready` on, its prepared ops. */
interface PreparedSequence extends OpSequence {
  readonly ops: () => void
  readonly head: HeadCall | null
  prepared: readonly PreparedOp[] | null
}

/** The WebGPU backend: one device, one recorded step program. */
export class WebGpuBackend extends GpuMemory implements InspectableBackend {
  readonly #queue: StepQueue
  readonly #blocks: BlockTransfer
  readonly #sequences: PreparedSequence[] = []
  /** The rows that ops work on: the whole step, and after `keepOutputs` its output rows (`#outputs`); null between steps. */
  #rows: StepInput | null = null
  #outputs: StepInput | null = null
  /** Rows of the whole step. */
  #numRows = 0
  /** `flush` has submitted the first dispatches of the step. */
  #isContinued = false
  /** Bytes of the rows that `pool` returns in this step. */
  #pooledBytes = 0
  /** The prepared ops so far, while a sequence is being prepared. */
  #recording: PreparedOp[] | null = null

  constructor(options: WebGpuBackendOptions, gpu: GpuDevice) {
    super(options, gpu)
    this.#queue = new StepQueue(this.context, gpu, options)
    this.#blocks = new BlockTransfer(this.context, this.attentionKernels, this.#queue)
  }

  record(label: string, ops: () => void, head: HeadCall | null): OpSequence {
    const sequence: PreparedSequence = { label, ops, head, prepared: null }
    this.#sequences.push(sequence)
    return sequence
  }

  kvBlockBytes(layout: KvLayout): number {
    return this.#blocks.blockBytes(layout)
  }

  async ready(signal?: AbortSignal): Promise<void> {
    this.checkAlive()
    const numPositions = this.options.limits.maxBlocksPerSequence * this.attentionKernels.layout.blockSize
    for (const table of this.ropes.values()) table.buffer ??= uploadRope(this.device, table, numPositions)
    const sources: KernelSource[] = []
    for (const sequence of this.#sequences) {
      sequence.prepared = this.#prepare(sequence.ops)
      sources.push(...sequence.prepared.flatMap((op) => op.sources))
      const { head } = sequence
      if (head !== null) sources.push(...this.sampleKernels.sources(this.matrices.get(head.head)))
    }
    await this.context.pipelines.compile(sources, signal)
    await this.device.queue.onSubmittedWorkDone()
    const refused = this.gpu.takeError()
    if (refused !== null) throw refused
  }

  #prepare(ops: () => void): readonly PreparedOp[] {
    const prepared: PreparedOp[] = []
    this.#recording = prepared
    this.context.stepRows = 'all'
    try {
      this.preparedRows.record(ops)
    } finally {
      this.#recording = null
      this.context.stepRows = 'all'
    }
    return prepared
  }

  copyBlock(source: number, destination: number, numTokens: number): void {
    this.#abandonStep()
    this.#blocks.copy(source, destination, numTokens)
  }

  beginStep(input: StepInput): void {
    if (this.isClosed) throw new Error('the backend is closed')
    this.#abandonStep()
    const { maxBlocksPerSequence, maxRows, maxSequences } = this.options.limits
    if (
      input.numRows > maxRows ||
      input.numSequences > maxSequences ||
      input.maxBlocksPerSequence > maxBlocksPerSequence
    ) {
      this.#blocks.abandonCopies()
      throw new Error(
        `step of ${input.numRows} rows, ${input.numSequences} sequences, ${input.maxBlocksPerSequence} blocks per sequence exceeds the limits ${maxRows}, ${maxSequences}, ${maxBlocksPerSequence}`,
      )
    }
    const outputs = outputStep(input)
    this.#rows = input
    this.#numRows = input.numRows
    this.#outputs = outputs
    this.#pooledBytes = 0
    this.#isContinued = false
    this.context.dispatches.clear()
    this.context.stepRows = 'all'
    this.context.step.begin(input, outputs, this.attentionKernels.layout.blockSize)
    this.attentionKernels.beginStep(input, outputs)
    this.stateKernels.beginStep(input)
    this.sampleKernels.beginStep()
  }

  run(sequence: OpSequence): void {
    const { prepared } = sequence as PreparedSequence
    if (prepared === null) throw new Error(`${sequence.label} was recorded after ready`)
    for (const op of prepared) op.launch(this.#step().numRows)
  }

  /** Adds an op to the sequence that is being prepared, or else launches it in the step. `written`: the activations that the op changes. */
  #add(op: PreparedOp, ...written: readonly Activation[]): void {
    this.preparedRows.noteWrites(op, written)
    if (this.#recording !== null) this.#recording.push(op)
    else op.launch(this.#step().numRows)
  }

  embed(out: Activation, table: Matrix, scale: number, adds = false): void {
    const kind = adds ? 'addedTokens' : 'tokens'
    this.#add(embed(this.context, out, this.matrices.get(table), scale, this.sampleKernels.sampled, kind), out)
  }

  embedAdd(out: Activation, table: Matrix): void {
    this.#add(embed(this.context, out, this.matrices.get(table), 1, this.sampleKernels.sampled, 'addedPlaces'), out)
  }

  linear(out: Activation, x: Activation, w: Matrix, options: LinearOptions): void {
    this.#add(this.linearKernels.linear(out, x, this.matrices.get(w), options), out)
  }

  addLowRank(out: Activation, x: Activation, update: LowRank, norm?: Norm): void {
    this.#add(this.lowRankKernels.add(out, x, update, norm), out)
  }

  activate(out: Activation, x: Activation, options: ActivateOptions): void {
    this.#add(this.lowRankKernels.activate(out, x, options), out)
  }

  normAdd(residual: Activation, x: Activation, norm: Norm, scale = 1): void {
    this.#add(normAdd(this.context, residual, x, norm, scale), residual)
  }

  rmsNorm(out: Activation, x: Activation, norm: Norm): void {
    this.#add(rmsNorm(this.context, out, x, norm), out)
  }

  add(residual: Activation, x: Activation, scale: number): void {
    this.#add(addRows(this.context, residual, x, scale), residual)
  }

  multiply(x: Activation, y: Columns): void {
    this.#add(multiplyRows(this.context, x, y), x)
  }

  sparseGelu(x: Activation, deviations: number): void {
    this.#add(sparseGelu(this.context, x, deviations), x)
  }

  matchLength(x: Activation, reference: Activation): void {
    this.#add(matchLength(this.context, x, reference), x)
  }

  predictStreams(out: Activation, options: StreamOptions): void {
    this.#add(streams(this.context, out, null, options), out, ...options.streams)
  }

  correctStreams(x: Activation, scale: Vector, options: StreamOptions): void {
    this.#add(streams(this.context, x, scale, options), x, ...options.streams)
  }

  layerNorm(out: Activation, x: Activation, norm: LayerNorm): void {
    this.#add(layerNorm(this.context, out, x, norm), out)
  }

  route(routing: Routing, logits: Activation, options: RouteOptions): void {
    this.#add(this.expertKernels.route(this.routings.get(routing), logits, options))
  }

  experts(out: Activation, x: Activation, weights: ExpertWeights, routing: Routing, options: ExpertsOptions): void {
    const [gateUp, down] = [this.expertMatrices.get(weights.gateUp), this.expertMatrices.get(weights.down)]
    this.#add(this.expertKernels.experts(out, x, gateUp, down, weights, this.routings.get(routing), options), out)
  }

  qkvRopeStore(q: Activation, qkv: Activation, options: QkvOptions): void {
    const rope = options.rope === null ? null : this.ropes.get(options.rope)
    this.#add(this.attentionKernels.qkvRopeStore(q, qkv, options, rope), q)
  }

  headProducts(out: Columns, options: HeadProductsOptions): void {
    this.#add(headProducts(this.context, out, options), out.x)
  }

  attention(out: Activation, q: Activation, options: AttentionOptions): void {
    this.#add(this.attentionKernels.attention(out, q, options), out)
  }

  keepOutputs(activations: readonly Activation[]): void {
    const { sources, launch } = keepOutputs(this.context, activations)
    this.context.stepRows = 'output'
    const op = {
      sources,
      launch: (numRows: number) => {
        launch(numRows)
        this.#rows = this.#outputs
      },
    }
    this.#add(op, ...activations)
  }

  pool(x: Activation, pooling: Pooling): void {
    const { limits } = this.options
    this.pooled ??= createRows(this.context, 'pooled', limits.maxSequences, x.cols * 4)
    this.#add(
      pool(this.context, x, pooling, this.pooled, () => {
        const { numSequences } = this.#step()
        this.#pooledBytes = numSequences * x.cols * 4
        return numSequences
      }),
    )
  }

  sigmoidGate(x: Activation, gate: Activation): void {
    this.#add(this.stateKernels.sigmoidGate(x, gate), x)
  }

  convolution(out: Activation, x: Activation, options: ConvolutionOptions): void {
    this.#add(this.stateKernels.convolution(out, x, options), out)
  }

  gatedDelta(out: Activation, x: Activation, options: GatedDeltaOptions): void {
    this.#add(this.stateKernels.gatedDelta(out, x, options), out)
  }

  selectiveScan(out: Activation, x: Activation, options: SelectiveScanOptions): void {
    this.#add(this.stateKernels.selectiveScan(out, x, options), out)
  }

  sample(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly SampleRow[]): void {
    this.sampleKernels.sample(x, this.matrices.get(head), options, rows, this.#step().positions)
  }

  score(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly ScoreRow[]): void {
    this.#step()
    this.sampleKernels.score(x, this.matrices.get(head), options, rows)
  }

  flush(): void {
    this.#step()
    const { dispatches, step } = this.context
    this.device.queue.writeBuffer(this.context.stepBuffer(), 0, step.words())
    this.#blocks.submitCopies()
    if (!this.#queue.submitFirst(dispatches)) return
    dispatches.clear()
    this.#isContinued = true
  }

  async endStep(options?: { readonly logits?: boolean }): Promise<StepOutput> {
    this.#step()
    this.#rows = null
    // Checked here and not in the ops, because endStep is the call that rejects for a lost device.
    if (this.gpu.lost.error !== null) throw this.gpu.lost.error
    const { dispatches, step } = this.context
    this.device.queue.writeBuffer(this.context.stepBuffer(), 0, step.words())
    this.#blocks.submitCopies()
    const pooledBytes = this.#pooledBytes
    const logitsBytes = options?.logits === true ? this.sampleKernels.logitsBytes : 0
    if (pooledBytes > 0 && logitsBytes > 0) throw new Error('a step gives pooled rows or logits, not both')
    const { values, ...results } = await this.#queue.submit({
      dispatches,
      isContinued: this.#isContinued,
      layout: this.sampleKernels.layout,
      results: this.sampleKernels.results,
      numRows: this.#numRows,
      valueBytes: pooledBytes + logitsBytes,
      copyValues: (encoder, target) =>
        pooledBytes > 0
          ? encoder.copyBufferToBuffer(this.pooled!, 0, target, 0, pooledBytes)
          : this.sampleKernels.copyLogits(encoder, target),
    })
    return { ...results, logits: pooledBytes > 0 ? null : values, pooled: pooledBytes > 0 ? values : null }
  }

  async readBlocks(blocks: readonly number[]): Promise<Uint8Array> {
    this.checkAlive()
    return this.#blocks.read(blocks)
  }

  async writeBlocks(blocks: readonly number[], bytes: Uint8Array): Promise<void> {
    this.checkAlive()
    this.#blocks.write(blocks, bytes)
    return Promise.resolve()
  }

  debugWrite(activation: Activation, values: Float32Array): void {
    const { buffer, cols, stride } = this.context.activation(activation)
    const rows = values.length / cols
    if (!Number.isInteger(rows) || rows > this.options.limits.maxRows) {
      throw new Error(
        `debugWrite ${activation.label}: ${values.length} values are not at most ${this.options.limits.maxRows} whole rows of ${cols}`,
      )
    }
    const padded = new Float32Array(rows * stride)
    for (let row = 0; row < rows; row++) padded.set(values.subarray(row * cols, (row + 1) * cols), row * stride)
    this.device.queue.writeBuffer(buffer, 0, padded)
  }

  async debugRead(activation: Activation): Promise<Float32Array> {
    const { buffer, cols, stride } = this.context.activation(activation)
    const bytes = await this.#queue.readBuffer(buffer.size, (encoder, target) =>
      encoder.copyBufferToBuffer(buffer, 0, target, 0, buffer.size),
    )
    const padded = new Float32Array(bytes)
    const rows = this.options.limits.maxRows
    const values = new Float32Array(rows * cols)
    for (let row = 0; row < rows; row++) values.set(padded.subarray(row * stride, row * stride + cols), row * cols)
    return values
  }

  close(): Promise<void> {
    if (!this.isClosed) {
      this.isClosed = true
      this.#queue.close()
      this.device.destroy()
      this.clear()
    }
    return Promise.resolve()
  }

  /** Discards a step that began and did not end, with its block copies: they must not run in the next step. */
  #abandonStep(): void {
    if (this.#rows === null) return
    this.#rows = null
    this.#blocks.abandonCopies()
  }

  /** The rows that ops work on. @throws Error outside a step */
  #step(): StepInput {
    if (this.#rows === null) throw new Error('an op was called outside beginStep .. endStep')
    return this.#rows
  }
}

/**
 * Creates the backend on the best adapter, which may be a software one (see `hasRealGpu`).
 * @throws Error that says what to install where there is none
 */
export async function createWebGpuBackend(options: WebGpuBackendOptions): Promise<Backend & WebGpuBackend> {
  return new WebGpuBackend(options, await openDevice())
}
