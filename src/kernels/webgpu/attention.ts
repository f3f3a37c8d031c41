/** qkvRopeStore, attention over the paged pool, and the attention items of a step. */
import type {
  Activation,
  AttentionOptions,
  BackendLimits,
  KvLayout,
  QkNormKind,
  QkvOptions,
  StepInput,
} from '../ops.ts'
import { bind, createStorage, Launch, normWeight, type GpuContext, type PreparedOp } from './context.ts'
import type { BindingKind, KernelSource } from './pipelines.ts'
import type { GpuRope } from './rope.ts'
import { ITEM_WORDS, SPLIT_ROW_WORDS } from './step-layout.ts'

const QKV: readonly BindingKind[] = ['read', 'uniform', 'read', 'write', 'write', 'read', 'read', 'read']
const ATTENTION: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'write', 'write', 'read']

/** Tokens a split: the length after which a row's partial sums are combined, whoever computes them. Decides bits. */
const SPLIT = 128
/** Tokens a workgroup scores at a time: TILE of wgsl/attention.wgsl. */
const TILE_TOKENS = 32
/** Partial results take at most this; rows beyond walk their splits one after another. */
const MAX_PARTIALS_BYTES = 256 * 2 ** 20
/** Query vectors of a workgroup, and rows. */
const TILE_VECTORS = 16
const MAX_TILE_ROWS = 8

/** What decides the attention kernels of a model. */
interface AttentionShape {
  readonly numHeads: number
  readonly numKvHeads: number
  readonly headDim: number
  readonly blockSize: number
  /** The pool holds int8 codes; absent: f16. */
  readonly isKvQ8?: boolean
}

/** Rows of one sequence that share a workgroup. */
function tileRows({ numHeads, numKvHeads, headDim }: AttentionShape): number {
  const vectors = headDim > 128 ? TILE_VECTORS / 2 : TILE_VECTORS
  return Math.max(1, Math.min(MAX_TILE_ROWS, Math.floor(vectors / (numHeads / numKvHeads))))
}

function attentionSource(
  { numHeads, numKvHeads, headDim, blockSize, isKvQ8 }: AttentionShape,
  TM: number,
): KernelSource {
  const G = numHeads / numKvHeads
  // Two vec4s of dims a thread, so that sums and what feeds them stay in registers.
  let WS = 64
  while (WS < 256 && TM * G * headDim > WS * 8) WS *= 2
  const VS = Math.ceil((TM * G) / (WS / TILE_TOKENS))
  const defines = { D: headDim, BLOCK: blockSize, ...kvDefines(isKvQ8), G, SPLIT, TM, WS, VS }
  return { name: 'attention', bindings: ATTENTION, defines }
}

function reduceSource({ headDim, blockSize, isKvQ8 }: AttentionShape): KernelSource {
  const defines = { D: headDim, BLOCK: blockSize, ...kvDefines(isKvQ8), WS: 64 }
  return { name: 'attention-reduce', bindings: ATTENTION, defines }
}

/** wgsl/kv-layout.wgsl: dims of 16 bytes of the pool. */
function kvDefines(isKvQ8: boolean | undefined): KernelSource['defines'] {
  return isKvQ8 === true ? { KV_Q8: 1, UNIT: 16 } : { KV_Q8: 0, UNIT: 8 }
}

/** Every attention kernel of a model: single rows, tiles of rows, combined splits. */
export function attentionSources(shape: AttentionShape): readonly [KernelSource, KernelSource, KernelSource] {
  return [attentionSource(shape, 1), attentionSource(shape, tileRows(shape)), reduceSource(shape)]
}

/** The kernel that norms, rotates and stores q, k and v. */
export function qkvSource(
  { headDim, blockSize, isKvQ8 }: AttentionShape,
  qkNorm: QkNormKind | 'none',
  hasRope: boolean,
): KernelSource {
  const QK_NORM = { none: 0, head: 1, full: 2, rotatedHead: 3 }[qkNorm]
  const defines = { D: headDim, BLOCK: blockSize, ...kvDefines(isKvQ8), WS: 32, QK_NORM, ROPE: hasRope ? 1 : 0 }
  return { name: 'qkv-rope-store', bindings: QKV, defines }
}

/** Words in a growing array, reused for every step. */
class WordList {
  #words = new Int32Array(256)
  length = 0

  push(...values: readonly number[]): void {
    if (this.length + values.length > this.#words.length) {
      const grown = new Int32Array(2 * this.#words.length)
      grown.set(this.#words)
      this.#words = grown
    }
    for (const value of values) this.#words[this.length++] = value
  }

  view(): Int32Array {
    return this.#words.subarray(0, this.length)
  }
}

/** Launches qkvRopeStore and attention, and holds the KV pools. */
export class AttentionKernels {
  readonly #context: GpuContext
  readonly #limits: BackendLimits
  readonly #isKvQ8: boolean
  #layout: KvLayout | null = null
  /** One buffer a layer: K, then V. */
  readonly pools: GPUBuffer[] = []
  #partials: GPUBuffer | null = null
  // The step's items, the same for every layer: a window is applied inside the kernels.
  #input: StepInput | null = null
  #plannedTile = 0
  readonly #singles = new WordList()
  readonly #tiles = new WordList()
  readonly #splitRows = new WordList()
  #tokens = 0

  constructor(context: GpuContext, limits: BackendLimits, isKvQ8: boolean) {
    this.#isKvQ8 = isKvQ8
    this.#context = context
    this.#limits = limits
  }

  get layout(): KvLayout {
    if (this.#layout === null) throw new Error('createKvCache has not been called')
    return this.#layout
  }

  /** Bytes of a block in one layer: of K, of V, and in q8 of their scales. Each is a region of the pool. */
  regionBytes({ blockSize, headDim, numKvHeads }: KvLayout): readonly number[] {
    const half = blockSize * headDim * numKvHeads * (this.#isKvQ8 ? 1 : 2)
    return [half, half, ...(this.#isKvQ8 ? [2 * blockSize * numKvHeads * 4] : [])]
  }

  /** Bytes of a block in one layer. */
  blockBytes(layout: KvLayout): number {
    return this.regionBytes(layout).reduce((sum, bytes) => sum + bytes, 0)
  }

  /** The regions of a layer's pool, each with `bytes` for every block. */
  get regions(): readonly { readonly base: number; readonly bytes: number }[] {
    let base = 0
    return this.regionBytes(this.layout).map((bytes) => {
      const region = { base, bytes }
      base += bytes * this.layout.numBlocks
      return region
    })
  }

  createPool(layout: KvLayout): void {
    if (this.#layout !== null) throw new Error('createKvCache was called twice')
    const { blockSize, headDim, numBlocks, numLayers } = layout
    if (blockSize % 16 !== 0) throw new Error(`block size ${blockSize} is not a multiple of 16`)
    const unit = this.#isKvQ8 ? 16 : 8
    if (headDim % unit !== 0)
      throw new Error(`head dim ${headDim} is not a multiple of ${unit}, as the KV pool wants it`)
    const size = numBlocks * this.blockBytes(layout)
    const { device, capabilities } = this.#context
    if (size > capabilities.maxBindingBytes) {
      const most = Math.floor(capabilities.maxBindingBytes / this.blockBytes(layout))
      throw new Error(
        `${numBlocks} KV blocks take ${size} bytes per layer; this adapter binds at most ${capabilities.maxBindingBytes}: use at most ${most} (--num-kv-blocks)`,
      )
    }
    this.#layout = layout
    for (let layer = 0; layer < numLayers; layer++) this.pools.push(createStorage(device, `kv ${layer}`, size))
  }

  get scratchBytes(): number {
    return this.#partials?.size ?? 0
  }

  /** Splits that all sequences of a full pool have, each cut by its own end: what a step can need unless sequences share blocks. */
  static numPartials({ numBlocks, blockSize }: KvLayout, { maxSequences }: BackendLimits): number {
    return Math.ceil((numBlocks * blockSize) / SPLIT) + maxSequences
  }

  beginStep(input: StepInput): void {
    this.#input = input
    this.#plannedTile = 0
  }

  /** One dispatch: norm, rope, q out, k and v into the pool. */
  qkvRopeStore(q: Activation, qkv: Activation, options: QkvOptions, rope: GpuRope | null): PreparedOp {
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
    const params = [
      numHeads,
      numKvHeads,
      source.stride,
      target.stride,
      rope === null ? 0 : rope.rotaryDim / 2,
      this.#base(1),
      { f32: qkNorm?.q.eps ?? 0 },
      { f32: qkNorm?.k.eps ?? 0 },
      this.#base(2),
    ]
    const buffers = [
      source.buffer,
      target.buffer,
      this.#pool(layer),
      rope?.buffer ?? context.nothing,
      normWeight(context, qkNorm?.q),
      normWeight(context, qkNorm?.k),
    ]
    const kernel = qkvSource(
      { numHeads, numKvHeads, headDim, blockSize, isKvQ8: this.#isKvQ8 },
      qkNorm?.kind ?? 'none',
      rope !== null,
    )
    const launch = new Launch(context, kernel, bind(context, `qkv ${layer}`, QKV, params, buffers))
    return { sources: [kernel], launch: (numRows) => launch.add(numHeads + 2 * numKvHeads, numRows) }
  }

  /** Up to three dispatches: single rows, row tiles, splits of single rows combined. */
  attention(out: Activation, q: Activation, options: AttentionOptions): PreparedOp {
    const context = this.#context
    const { layer, headDim, numHeads, numKvHeads, window, softcap, scale, bidirectional = false, sinks } = options
    const target = context.activation(out)
    const source = context.activation(q)
    const shape = { numHeads, numKvHeads, headDim, blockSize: this.layout.blockSize, isKvQ8: this.#isKvQ8 }
    const capacity = this.#createPartials(shape)
    const hasSinks = sinks !== undefined && sinks !== null
    const sinkBuffer = hasSinks ? context.vector(sinks).buffer : context.nothing
    const group = (firstItem: number) =>
      bind(
        context,
        `attention ${layer}`,
        ATTENTION,
        [
          numKvHeads,
          source.stride,
          target.stride,
          this.#base(1),
          window ?? 0,
          firstItem,
          { f32: scale },
          { f32: softcap ?? 0 },
          bidirectional ? 1 : 0,
          this.#base(2),
          hasSinks ? 1 : 0,
        ],
        [source.buffer, this.#pool(layer), target.buffer, this.#partials!, sinkBuffer],
      )
    const sources = attentionSources(shape)
    const singles = new Launch(context, sources[0], group(0))
    const tiles = new Launch(context, sources[1], group(1))
    const reduce = new Launch(context, sources[2], group(0))
    const rows = tileRows(shape)
    return {
      sources,
      launch: () => {
        this.#planItems(rows, capacity, bidirectional)
        const operations = 4 * this.#tokens * numHeads * headDim
        if (this.#singles.length > 0) singles.add(this.#singles.length / ITEM_WORDS, numKvHeads)
        if (this.#tiles.length > 0) tiles.add(this.#tiles.length / ITEM_WORDS, numKvHeads, operations)
        if (this.#splitRows.length > 0) reduce.add(this.#splitRows.length / SPLIT_ROW_WORDS, numHeads)
      },
    }
  }

  /** Where a region begins, in units of 16 bytes; 0 where there is none. */
  #base(region: 1 | 2): number {
    return (this.regions[region]?.base ?? 0) / 16
  }

  #pool(layer: number): GPUBuffer {
    const pool = this.pools[layer]
    if (pool === undefined) throw new Error(`layer ${layer} is outside the pool of ${this.pools.length} layers`)
    return pool
  }

  /** The buffer of partial results, shared by all layers; how many it holds. */
  #createPartials({ numHeads, headDim }: AttentionShape): number {
    const bytes = numHeads * (headDim + 2) * 4
    const most = Math.min(MAX_PARTIALS_BYTES, this.#context.capabilities.maxBindingBytes)
    const needed = bytes * AttentionKernels.numPartials(this.layout, this.#limits)
    this.#partials ??= createStorage(this.#context.device, 'attention partials', Math.min(most, needed))
    return Math.floor(this.#partials.size / bytes)
  }

  #planItems(tile: number, capacity: number, isBidirectional: boolean): void {
    if (this.#plannedTile !== 0) {
      if (this.#plannedTile !== tile) throw new Error('layers with different query groups in one step')
      return
    }
    if (this.#input === null) throw new Error('attention outside a step')
    const { numSequences, positions, sequenceStarts } = this.#input
    this.#plannedTile = tile
    for (const list of [this.#singles, this.#tiles, this.#splitRows]) list.length = 0
    this.#tokens = 0
    let numPartials = 0
    for (let sequence = 0; sequence < numSequences; sequence++) {
      const endRow = sequenceStarts[sequence + 1]!
      const end = positions[endRow - 1]!
      for (let row = sequenceStarts[sequence]!; row < endRow;) {
        const isTile = tile > 1 && endRow - row > 1
        const count = isTile ? Math.min(tile, endRow - row) : 1
        const last = positions[isBidirectional ? endRow - 1 : row + count - 1]!
        const numSplits = Math.floor(last / SPLIT) + 1
        if (isTile) {
          this.#tiles.push(row, count, sequence, 0, numSplits, -1, end)
          this.#tokens += count * (last + 1)
        } else if (numSplits === 1 || numPartials + numSplits > capacity) {
          this.#singles.push(row, 1, sequence, 0, numSplits, -1, end)
        } else {
          this.#splitRows.push(row, numPartials, numSplits)
          for (let split = 0; split < numSplits; split++)
            this.#singles.push(row, 1, sequence, split, split + 1, numPartials++, end)
        }
        row += count
      }
    }
    const { step } = this.#context
    step.set('numSingleItems', this.#singles.length / ITEM_WORDS)
    const { words } = step.reserve('attentionItems', this.#singles.length + this.#tiles.length)
    words.set(this.#singles.view())
    words.set(this.#tiles.view(), this.#singles.length)
    step.append('attentionRows', this.#splitRows.view())
  }
}
