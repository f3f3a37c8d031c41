/** Records qkvRopeStore and attention as commands. */
import type { AttentionOptions, HeadProductsOptions, QkNormKind, QkvOptions } from '../attention-options.ts'
import { checkHeadProducts } from '../head-products.ts'
import type { Activation, Columns } from '../ops.ts'
import type { Executor } from './executor.ts'
import { PANEL, roundUp } from './matrices.ts'
import type { Program } from './program.ts'
import type { Resources } from './resources.ts'
import { rowsPerItem, type StepInputs } from './step-inputs.ts'
import { SPLIT, type WorkingMemory } from './working-memory.ts'

const QK_NORM: Readonly<Record<QkNormKind, number>> = { head: 1, full: 2, rotatedHead: 3 }

/** The context is split between threads only while there are at most this many partial results. */
const MAX_PARTIALS = 2048

/** The attention ops of the cpu backend, and the state that recording any op needs. @throws Error when shapes do not match */
export class AttentionRecorder {
  protected readonly program: Program
  protected readonly executor: Executor
  protected readonly resources: Resources
  protected readonly step: StepInputs
  protected readonly memory: WorkingMemory
  protected readonly numThreads: number

  constructor(
    program: Program,
    executor: Executor,
    resources: Resources,
    step: StepInputs,
    memory: WorkingMemory,
    numThreads: number,
  ) {
    this.program = program
    this.executor = executor
    this.resources = resources
    this.step = step
    this.memory = memory
    this.numThreads = numThreads
  }

  qkvRopeStore(q: Activation, qkv: Activation, options: QkvOptions): void {
    const { numHeads, numKvHeads, headDim, qkNorm, vNorm = null, rope, layer, isQueryOnly = false } = options
    const source = this.resources.source(qkv)
    const queries = this.resources.target(q)
    const kv = this.resources.kvCache()
    const { address, geometry } = kv.layer(layer, numKvHeads, headDim)
    const numStored = isQueryOnly ? 0 : numKvHeads
    if (source.cols !== (numHeads + 2 * numStored) * headDim || queries.cols !== numHeads * headDim) {
      throw new Error(
        `qkvRopeStore: [.., ${source.cols}] -> [.., ${queries.cols}] does not fit ${numHeads} + 2 x ${numStored} heads of ${headDim}`,
      )
    }
    this.program.add('qkvRopeStore', {
      pool: address,
      blockBytes: geometry.blockBytes,
      headBytes: geometry.headBytes,
      keyBytes: geometry.keyBytes,
      blockSize: kv.layout.blockSize,
      paddedBlock: geometry.paddedBlock,
      kvFormat: kv.formatCode,
      rows: this.step.input.numRows,
      q: queries.address,
      qStride: queries.stride,
      qkv: source.address,
      qkvStride: source.stride,
      slots: this.step.slots,
      numHeads,
      numKvHeads: numStored,
      headDim,
      normKind: qkNorm === null ? 0 : QK_NORM[qkNorm.kind],
      qNorm: qkNorm === null ? 0 : this.resources.vector(qkNorm.q.weight).address,
      qEps: qkNorm?.q.eps ?? 0,
      kNorm: qkNorm === null ? 0 : this.resources.vector(qkNorm.k.weight).address,
      kEps: qkNorm?.k.eps ?? 0,
      normalizesV: vNorm === null ? 0 : 1,
      vEps: vNorm?.eps ?? 0,
      rope: rope === null ? 0 : this.step.rope(this.resources.rope(rope)),
      rotaryDim: rope?.rotaryDim ?? 0,
    })
  }

  headProducts(out: Columns, options: HeadProductsOptions): void {
    checkHeadProducts(out, options)
    const { x, numHeads, headDim, count, table } = options
    const source = this.resources.source(x.x)
    // `changed`, not `target`: the columns that are not written keep their values.
    const target = this.resources.changed(out.x)
    const { numRows } = this.step.input
    this.executor.addWork(numRows * numHeads * headDim * count)
    this.program.add('headProducts', {
      rows: numRows,
      x: source.address + x.offset * 4,
      xStride: source.stride,
      headBytes: headDim * 4,
      table: this.resources.vector(table).address,
      tableBytes: count * headDim * 4,
      panels: count / PANEL,
      depth: headDim,
      out: target.address + out.offset * 4,
      outStride: target.stride,
      heads: numHeads,
    })
  }

  #bias(bias: NonNullable<AttentionOptions['bias']> | null) {
    if (bias === null) return { bias: 0, reach: 0, numBuckets: 0, relativeScores: 0 }
    const { reach } = bias
    if (bias.kind === 'distance')
      return { bias: this.resources.vector(bias.values).address, reach, numBuckets: 0, relativeScores: 0 }
    const { numBuckets, buckets, scores } = bias
    const { address: relativeScores } = this.resources.source(scores)
    return { bias: this.resources.vector(buckets).address, reach, numBuckets, relativeScores }
  }

  attention(out: Activation, q: Activation, options: AttentionOptions): void {
    const { numHeads, numKvHeads, headDim, layer, window, softcap, bidirectional = false } = options
    const queries = this.resources.source(q)
    const target = this.resources.target(out)
    const kv = this.resources.kvCache()
    const { address, geometry } = kv.layer(layer, numKvHeads, headDim)
    const group = numHeads / numKvHeads
    const items = this.step.itemsOf(group)
    const numSplits = Math.ceil(this.step.longest / SPLIT)
    const states = items.count * numKvHeads * numSplits
    const apart =
      this.numThreads > 1 && numSplits > 1 && items.count * numKvHeads < 4 * this.numThreads && states <= MAX_PARTIALS
    const partialBytes = apart ? rowsPerItem(group) * group * (roundUp(headDim, 16) * 4 + 16) : 0
    const partials = apart ? this.memory.reservePartials(partialBytes * states) : 0
    const { numRows } = this.step.input
    this.executor.addWork(2 * numRows * numHeads * headDim * this.step.longest)
    this.program.add('attention', {
      pool: address,
      blockBytes: geometry.blockBytes,
      headBytes: geometry.headBytes,
      keyBytes: geometry.keyBytes,
      blockSize: kv.layout.blockSize,
      paddedBlock: geometry.paddedBlock,
      kvFormat: kv.formatCode,
      q: queries.address,
      qStride: queries.stride,
      out: target.address,
      outStride: target.stride,
      numKvHeads,
      group,
      headDim,
      scale: options.scale,
      window: window ?? 0,
      softcap: softcap ?? 0,
      items: items.address,
      numItems: items.count,
      positions: this.step.positions,
      splits: apart ? numSplits : 0,
      partials,
      partialBytes,
      bidirectional: bidirectional ? 1 : 0,
      sinks: options.sinks === undefined || options.sinks === null ? 0 : this.resources.vector(options.sinks).address,
      ...this.#bias(options.bias ?? null),
    })
  }
}
