/** Launchers of qkvRopeStore and attention, and the attention items of a step. */
import type { Activation, AttentionOptions, KvLayout, QkvOptions, StepInput } from '../ops.ts'
import { createStorage, normWeight, record, type Bindings, type GpuContext } from './context.ts'
import { smallWorkgroup } from './elementwise.ts'
import type { BindingKind, KernelSource } from './pipelines.ts'
import type { GpuRope } from './rope.ts'
import { ITEM_WORDS, MAX_PARTIALS, SPLIT_ROW_WORDS } from './step-layout.ts'

const QKV: readonly BindingKind[] = ['read', 'uniform', 'read', 'write', 'write', 'read', 'read', 'read']
const ATTENTION: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'write', 'write']

/** Tokens a split: the length after which a row's partial sums are combined, whoever computes them. */
const SPLIT_TOKENS = { software: 256, gpu: 128 } as const
/** Partial results of split rows take at most this; further rows walk their splits one after another. */
const PARTIALS_BYTES = 16 * 2 ** 20

interface Plan {
  readonly tileRows: number
  numSingles: number
  numTiles: number
  numSplitRows: number
}

export class AttentionKernels {
  readonly #context: GpuContext
  readonly #bindings: Bindings
  readonly #lanes: number
  readonly #split: number
  #layout: KvLayout | null = null
  /** One buffer a layer: K, then V. */
  readonly pools: GPUBuffer[] = []
  #partials: GPUBuffer | null = null
  #plan: Plan | null = null

  constructor(context: GpuContext, bindings: Bindings, broadcastLanes: number) {
    this.#context = context
    this.#bindings = bindings
    this.#lanes = broadcastLanes
    this.#split = context.capabilities.isSoftware ? SPLIT_TOKENS.software : SPLIT_TOKENS.gpu
  }

  get layout(): KvLayout {
    if (this.#layout === null) throw new Error('createKvCache has not been called')
    return this.#layout
  }

  /** Bytes of K (or V) of a block in one layer. */
  static halfBlockBytes({ blockSize, headDim, numKvHeads }: KvLayout): number {
    return blockSize * headDim * numKvHeads * 2
  }

  createPool(layout: KvLayout): void {
    if (this.#layout !== null) throw new Error('createKvCache was called twice')
    const { blockSize, headDim, numBlocks, numLayers } = layout
    if (blockSize % 16 !== 0) throw new Error(`block size ${blockSize} is not a multiple of 16`)
    if (headDim % 8 !== 0) throw new Error(`head dim ${headDim} is not a multiple of 8`)
    const size = 2 * numBlocks * AttentionKernels.halfBlockBytes(layout)
    const { device, capabilities } = this.#context
    if (size > capabilities.maxBindingBytes) {
      const most = Math.floor(capabilities.maxBindingBytes / (2 * AttentionKernels.halfBlockBytes(layout)))
      throw new Error(
        `${numBlocks} KV blocks take ${size} bytes a layer; this adapter binds at most ${capabilities.maxBindingBytes}: use at most ${most} (--num-kv-blocks)`,
      )
    }
    this.#layout = layout
    for (let layer = 0; layer < numLayers; layer++) this.pools.push(createStorage(device, `kv ${layer}`, size))
  }

  get scratchBytes(): number {
    return this.#partials?.size ?? 0
  }

  beginStep(): void {
    this.#plan = null
  }

  /** One dispatch: norm, rope, q out, k and v into the pool. */
  qkvRopeStore(q: Activation, qkv: Activation, options: QkvOptions, rope: GpuRope | null, numRows: number): void {
    const context = this.#context
    const { layer, headDim, numHeads, numKvHeads, qkNorm } = options
    const target = context.activation(q)
    const source = context.activation(qkv)
    if (source.cols !== (numHeads + 2 * numKvHeads) * headDim || target.cols !== numHeads * headDim) {
      throw new Error(
        `qkvRopeStore: ${source.cols} -> ${target.cols} does not fit ${numHeads} + 2 x ${numKvHeads} heads of ${headDim}`,
      )
    }
    const { blockSize } = this.layout
    const norms = qkNorm === null ? '' : `${context.vector(qkNorm.q.weight).id},${context.vector(qkNorm.k.weight).id}`
    const group = this.#bindings.get(`qkv|${layer}|${target.id}|${source.id}|${rope?.id}|${norms}`, QKV, () => ({
      params: [
        numHeads,
        numKvHeads,
        source.stride,
        target.stride,
        rope === null ? 0 : rope.rotaryDim / 2,
        this.#vBase(),
        { f32: qkNorm?.q.eps ?? 0 },
        { f32: qkNorm?.k.eps ?? 0 },
      ],
      buffers: [
        source.buffer,
        target.buffer,
        this.#pool(layer),
        rope?.buffer ?? context.nothing,
        normWeight(context, qkNorm?.q),
        normWeight(context, qkNorm?.k),
      ],
    }))
    const defines = {
      D: headDim,
      BLOCK: blockSize,
      WS: context.capabilities.isSoftware ? smallWorkgroup(context) : 32,
      QK_NORM: qkNorm === null ? 0 : qkNorm.kind === 'head' ? 1 : 2,
      ROPE: rope === null ? 0 : 1,
    }
    record(context, { name: 'qkv-rope-store', bindings: QKV, defines }, group, numHeads + 2 * numKvHeads, numRows)
  }

  /** Up to three dispatches: single rows, their splits combined, row tiles. */
  attention(out: Activation, q: Activation, options: AttentionOptions, input: StepInput): void {
    const context = this.#context
    const { layer, headDim, numHeads, numKvHeads, window, softcap, scale } = options
    const target = context.activation(out)
    const source = context.activation(q)
    const { blockSize } = this.layout
    const G = numHeads / numKvHeads
    const plan = this.#planItems(G, headDim, numHeads, input)
    const partials = this.#partialsBuffer()
    const groupFor = (firstItem: number) =>
      this.#bindings.get(
        `attention|${firstItem}|${layer}|${target.id}|${source.id}|${scale}|${window}|${softcap}`,
        ATTENTION,
        () => ({
          params: [
            numKvHeads,
            source.stride,
            target.stride,
            this.#vBase(),
            window ?? 0,
            firstItem,
            { f32: scale },
            { f32: softcap ?? 0 },
            headDim / 8,
            this.#lanes,
            2 * Math.ceil(headDim / 8 / Math.max(1, this.#lanes)),
          ],
          buffers: [source.buffer, this.#pool(layer), target.buffer, partials],
        }),
      )
    const shape = { D: headDim, BLOCK: blockSize, G, SPLIT: this.#split }
    const kernel = (TM: number): KernelSource =>
      this.#lanes > 0 && blockSize % this.#lanes === 0
        ? { name: 'attention-broadcast', bindings: ATTENTION, defines: { ...shape, TM, LANES: this.#lanes } }
        : { name: 'attention-staged', bindings: ATTENTION, defines: { ...shape, TM, WS: 64 } }
    if (plan.numSingles > 0) record(context, kernel(1), groupFor(0), plan.numSingles, numKvHeads)
    if (plan.numTiles > 0) record(context, kernel(plan.tileRows), groupFor(1), plan.numTiles, numKvHeads)
    if (plan.numSplitRows > 0) {
      const reduce = {
        name: 'attention-reduce',
        bindings: ATTENTION,
        defines: { ...shape, TM: 1, WS: smallWorkgroup(context) },
      }
      record(context, reduce, groupFor(0), plan.numSplitRows, numHeads)
    }
  }

  #vBase(): number {
    return (this.layout.numBlocks * AttentionKernels.halfBlockBytes(this.layout)) / 16
  }

  #pool(layer: number): GPUBuffer {
    const pool = this.pools[layer]
    if (pool === undefined) throw new Error(`layer ${layer} is outside the pool of ${this.pools.length} layers`)
    return pool
  }

  #partialsBuffer(): GPUBuffer {
    this.#partials ??= createStorage(this.#context.device, 'attention partials', PARTIALS_BYTES)
    return this.#partials
  }

  /** Rows a tile: as many query vectors as registers (or workgroup memory) hold. */
  #tileRows(G: number, headDim: number): number {
    const [vectors, most] = this.#lanes > 0 ? [12, 4] : [headDim > 128 ? 8 : 16, 8]
    return Math.max(1, Math.min(most, Math.floor(vectors / G)))
  }

  /** The step's items, the same for every layer: a window is applied inside the kernels. */
  #planItems(G: number, headDim: number, numHeads: number, input: StepInput): Plan {
    const tileRows = this.#tileRows(G, headDim)
    if (this.#plan !== null) {
      if (this.#plan.tileRows !== tileRows) throw new Error('layers with different query groups in one step')
      return this.#plan
    }
    const plan: Plan = { tileRows, numSingles: 0, numTiles: 0, numSplitRows: 0 }
    const singles: number[] = []
    const tiles: number[] = []
    const splitRows: number[] = []
    const capacity = Math.min(MAX_PARTIALS, Math.floor(PARTIALS_BYTES / (numHeads * (headDim + 2) * 4)))
    let numPartials = 0
    for (let sequence = 0; sequence < input.numSequences; sequence++) {
      const endRow = input.sequenceStarts[sequence + 1]!
      for (let row = input.sequenceStarts[sequence]!; row < endRow;) {
        const isTile = tileRows > 1 && endRow - row > 1
        const count = isTile ? Math.min(tileRows, endRow - row) : 1
        const numSplits = Math.floor(input.positions[row + count - 1]! / this.#split) + 1
        if (isTile) tiles.push(row, count, sequence, 0, numSplits, -1)
        else if (numSplits === 1 || numPartials + numSplits > capacity) singles.push(row, 1, sequence, 0, numSplits, -1)
        else {
          splitRows.push(row, numPartials, numSplits)
          for (let split = 0; split < numSplits; split++)
            singles.push(row, 1, sequence, split, split + 1, numPartials++)
        }
        row += count
      }
    }
    plan.numSingles = singles.length / ITEM_WORDS
    plan.numTiles = tiles.length / ITEM_WORDS
    plan.numSplitRows = splitRows.length / SPLIT_ROW_WORDS
    const { step } = this.#context
    step.set('numSingleItems', plan.numSingles)
    step.append('attentionItems', singles.concat(tiles))
    step.append('attentionRows', splitRows)
    this.#plan = plan
    return plan
  }
}
