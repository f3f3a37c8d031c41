/** Launches qkvRopeStore and attention over the paged pool. */
import type { AttentionOptions, QkvOptions } from '../attention-options.ts'
import type { Activation, BackendLimits, KvLayout, KvShape, StepInput } from '../ops.ts'
import {
  bind,
  bufferBytes,
  createStorage,
  Launch,
  LongLaunch,
  normWeight,
  type GpuContext,
  type PreparedOp,
  type QuantizedResults,
} from './context.ts'
import type { GpuRope } from './rope.ts'
import { AttentionPlan, SPLIT } from './attention-plan.ts'
import { attentionSources, headsPerItem, QKV, qkvSource, tileRows, type AttentionShape } from './attention-sources.ts'
import { MAX_ATTENTION_PLANS, ROW_WORDS, type StepRows } from './step-layout.ts'

/** Most bytes of partial results. The rows that find no room there walk their splits one after another. */
const MAX_PARTIALS_BYTES = 256 * 2 ** 20

/** One layer's buffer: K, then V, then for q8 their scales. Each is a region that begins at byte `base` and has `bytes` bytes per block. */
interface KvPool {
  readonly shape: KvShape
  readonly buffer: GPUBuffer
  readonly regions: readonly { readonly base: number; readonly bytes: number }[]
}

/** Launches qkvRopeStore and attention, and owns the KV pools. */
export class AttentionKernels {
  readonly #context: GpuContext
  readonly #limits: BackendLimits
  readonly #isKvQ8: boolean
  #layout: KvLayout | null = null
  readonly pools: KvPool[] = []
  /** Buffers of partial results by the bytes of one result. Layers of equal size share one. */
  readonly #partials = new Map<number, GPUBuffer>()
  readonly #plans: AttentionPlan[] = []
  #input: StepInput | null = null
  /** The step of the rows that `keepOutputs` keeps. */
  #outputs: StepInput | null = null

  constructor(context: GpuContext, limits: BackendLimits, isKvQ8: boolean) {
    this.#isKvQ8 = isKvQ8
    this.#context = context
    this.#limits = limits
  }

  get layout(): KvLayout {
    if (this.#layout === null) throw new Error('createKvCache has not been called')
    return this.#layout
  }

  /** Bytes per block in one layer: of K, of V, and for q8 of their scales. */
  #regionBytes({ headDim, numKvHeads }: KvShape, blockSize: number): readonly number[] {
    const half = blockSize * headDim * numKvHeads * (this.#isKvQ8 ? 1 : 2)
    return [half, half, ...(this.#isKvQ8 ? [2 * blockSize * numKvHeads * 4] : [])]
  }

  #layerBytes(shape: KvShape, blockSize: number): number {
    return this.#regionBytes(shape, blockSize).reduce((sum, bytes) => sum + bytes, 0)
  }

  /** Bytes of one block over all layers. */
  blockBytes({ layers, blockSize }: KvLayout): number {
    return layers.reduce((sum, shape) => sum + this.#layerBytes(shape, blockSize), 0)
  }

  /** Most blocks of a pool: the whole buffer of a layer must fit one binding. */
  maxBlocks({ layers, blockSize }: KvLayout): number {
    const largest = Math.max(1, ...layers.map((shape) => this.#layerBytes(shape, blockSize)))
    return Math.floor(this.#context.capabilities.maxBindingBytes / largest)
  }

  createPool(layout: KvLayout): void {
    if (this.#layout !== null) throw new Error('createKvCache was called twice')
    const { blockSize, numBlocks, layers } = layout
    if (blockSize % 16 !== 0) throw new Error(`block size ${blockSize} is not a multiple of 16`)
    const unit = this.#isKvQ8 ? 16 : 8
    const odd = layers.find(({ headDim }) => headDim % unit !== 0)
    if (odd !== undefined)
      throw new Error(`head dim ${odd.headDim} is not a multiple of ${unit}, which the KV pool needs`)
    const { device, capabilities } = this.#context
    const most = this.maxBlocks(layout)
    if (numBlocks > most) {
      throw new Error(
        `${numBlocks} KV blocks of a layer are more than this adapter's bindings of ${capabilities.maxBindingBytes} bytes hold: use at most ${most} (--num-kv-blocks)`,
      )
    }
    this.#layout = layout
    for (const [layer, shape] of layers.entries()) {
      let base = 0
      const regions = this.#regionBytes(shape, blockSize).map((bytes) => {
        const region = { base, bytes }
        base += bytes * numBlocks
        return region
      })
      this.pools.push({ shape, regions, buffer: createStorage(device, `kv ${layer}`, base) })
    }
  }

  get scratchBytes(): number {
    return bufferBytes([...this.#partials.values()])
  }

  /** Splits of all sequences of a full pool, where the last split of each may be short. A step needs no more, unless sequences share blocks. */
  static numPartials({ numBlocks, blockSize }: KvLayout, { maxSequences }: BackendLimits): number {
    return Math.ceil((numBlocks * blockSize) / SPLIT) + maxSequences
  }

  beginStep(input: StepInput, outputs: StepInput): void {
    this.#input = input
    this.#outputs = outputs
  }

  /** One dispatch: norm and rope, then q to `q`, and k and v to the pool. @throws Error where shapes do not fit */
  qkvRopeStore(q: Activation, qkv: Activation, options: QkvOptions, rope: GpuRope | null): PreparedOp {
    const context = this.#context
    const { layer, headDim, numHeads, numKvHeads, qkNorm, vNorm = null, isQueryOnly = false } = options
    const target = context.activation(q)
    const source = context.activation(qkv)
    const numStored = isQueryOnly ? 0 : numKvHeads
    if (source.cols !== (numHeads + 2 * numStored) * headDim || target.cols !== numHeads * headDim) {
      throw new Error(
        `qkvRopeStore: ${source.cols} -> ${target.cols} does not fit ${numHeads} + 2 x ${numStored} heads of ${headDim}`,
      )
    }
    if (vNorm !== null && qkNorm?.kind !== 'head') throw new Error('qkvRopeStore: vNorm needs a qkNorm of kind head')
    const { blockSize } = this.layout
    const pool = this.#pool(options)
    const params = [
      numHeads,
      numKvHeads,
      source.stride,
      target.stride,
      rope === null ? 0 : rope.rotaryDim / 2,
      base(pool, 1),
      { f32: qkNorm?.q.eps ?? 0 },
      { f32: qkNorm?.k.eps ?? 0 },
      base(pool, 2),
      { f32: vNorm?.eps ?? 0 },
      ROW_WORDS[context.stepRows].positions,
    ]
    const buffers = [
      source.buffer,
      target.buffer,
      pool.buffer,
      rope?.buffer ?? context.nothing,
      normWeight(context, qkNorm?.q),
      normWeight(context, qkNorm?.k),
    ]
    const kernel = qkvSource(
      { numHeads, numKvHeads, headDim, blockSize, isKvQ8: this.#isKvQ8 },
      qkNorm?.kind ?? 'none',
      rope !== null,
      vNorm !== null,
    )
    const launch = new Launch(context, kernel, bind(context, `qkv ${layer}`, QKV, params, buffers))
    return { sources: [kernel], launch: (numRows) => launch.add(numHeads + 2 * numStored, numRows) }
  }

  /** Up to three kernels: single rows, tiles of rows, and the combination of the splits of single rows. */
  attention(out: Activation, q: Activation, options: AttentionOptions): PreparedOp {
    const context = this.#context
    const { layer, headDim, numHeads, numKvHeads, window, softcap, scale, bidirectional = false, sinks } = options
    const { bias = null } = options
    const target = context.activation(out)
    const source = context.activation(q)
    const shape = {
      numHeads,
      numKvHeads,
      headDim,
      blockSize: this.layout.blockSize,
      isKvQ8: this.#isKvQ8,
      bias: bias?.kind,
    }
    const pool = this.#pool(options)
    const { partials, capacity } = this.#createPartials(shape)
    const { stepRows } = context
    const hasSinks = sinks !== undefined && sinks !== null
    const sinkBuffer = hasSinks ? context.vector(sinks).buffer : context.nothing
    let next: QuantizedResults | undefined
    const settle = () => {
      const sources = attentionSources({ ...shape, next: next?.defines })
      const group = (plan: AttentionPlan, firstItem: number, skippedItems: number) =>
        bind(
          context,
          `attention ${layer}`,
          sources[0].bindings,
          [
            numKvHeads,
            source.stride,
            target.stride,
            base(pool, 1),
            window ?? 0,
            firstItem,
            { f32: scale },
            { f32: softcap ?? 0 },
            bidirectional ? 1 : 0,
            base(pool, 2),
            hasSinks ? 1 : 0,
            plan.word,
            skippedItems,
            bias?.reach ?? 0,
            bias?.kind === 'disentangled' ? bias.numBuckets : 0,
            ROW_WORDS[stepRows].positions,
          ],
          [
            source.buffer,
            pool.buffer,
            target.buffer,
            partials,
            sinkBuffer,
            ...this.#biasBuffers(bias),
            ...(next === undefined ? [] : [next.buffer]),
          ],
        )
      const launchesOf = (rows: StepRows) => {
        const plan = this.#plan(tileRows(shape), capacity, bidirectional, rows)
        return {
          plan,
          singles: new LongLaunch(context, sources[0], 'x', (skipped) => group(plan, 0, skipped)),
          tiles: new LongLaunch(context, sources[1], 'x', (skipped) => group(plan, 1, skipped)),
          reduce: new Launch(context, sources[2], group(plan, 0, 0)),
        }
      }
      const ofAll = launchesOf('all')
      // In a step whose rows are all outputs, layers after keepOutputs reuse the plan of the layers before it.
      return { sources, ofAll, ofOutputs: stepRows === 'all' ? ofAll : launchesOf('output') }
    }
    const groups = numHeads / headsPerItem(shape)
    let settled: ReturnType<typeof settle> | null = null
    return {
      get sources() {
        return (settled ??= settle()).sources
      },
      quantize: (results) => {
        if (next !== undefined || shape.bias !== undefined || headDim % 32 !== 0 || results.weight !== null)
          return false
        next = results
        return true
      },
      launch: (numRows) => {
        const input = stepRows === 'all' ? this.#input : this.#outputs
        if (input === null) throw new Error('attention was called outside beginStep .. endStep')
        const { ofAll, ofOutputs } = (settled ??= settle())
        const { plan, singles, tiles, reduce } = input === this.#input ? ofAll : ofOutputs
        plan.prepare(input, context.step)
        const operations = (tokens: number) =>
          4 * Math.min(tokens, window === null ? Infinity : numRows * window) * numHeads * headDim
        singles.add(plan.numSingles, groups, operations(plan.singleTokens))
        tiles.add(plan.numTiles, groups, operations(plan.tileTokens))
        if (plan.numSplitRows > 0) reduce.add(plan.numSplitRows, numHeads)
      },
    }
  }

  /** The buffers of a bias: values or buckets by distance, then scores by bucket. */
  #biasBuffers(bias: AttentionOptions['bias'] | null): readonly GPUBuffer[] {
    const context = this.#context
    if (bias === null || bias === undefined) return []
    if (bias.kind === 'distance') return [context.vector(bias.values).buffer, context.nothing]
    return [context.vector(bias.buckets).buffer, context.activation(bias.scores).buffer]
  }

  /** The pool of an op's layer. @throws Error where the pool was created for other heads */
  #pool({ layer, numKvHeads, headDim }: KvShape & { readonly layer: number }): KvPool {
    const pool = this.pools[layer]
    if (pool === undefined) throw new Error(`layer ${layer} is outside the pool of ${this.pools.length} layers`)
    const { shape } = pool
    if (shape.numKvHeads !== numKvHeads || shape.headDim !== headDim)
      throw new Error(
        `layer ${layer} of the KV pool has ${shape.numKvHeads} heads of ${shape.headDim}, the op ${numKvHeads} of ${headDim}`,
      )
    return pool
  }

  /** The buffer of partial results for layers of this shape, and how many results it has room for. */
  #createPartials({ numHeads, headDim }: AttentionShape): { readonly partials: GPUBuffer; readonly capacity: number } {
    const bytes = numHeads * (headDim + 2) * 4
    const most = Math.min(MAX_PARTIALS_BYTES, this.#context.capabilities.maxBindingBytes)
    const needed = bytes * AttentionKernels.numPartials(this.layout, this.#limits)
    const partials =
      this.#partials.get(bytes) ?? createStorage(this.#context.device, 'attention partials', Math.min(most, needed))
    this.#partials.set(bytes, partials)
    return { partials, capacity: Math.floor(partials.size / bytes) }
  }

  #plan(tile: number, capacity: number, isBidirectional: boolean, rows: StepRows): AttentionPlan {
    const known = this.#plans.find(
      (plan) =>
        plan.tile === tile &&
        plan.capacity === capacity &&
        plan.isBidirectional === isBidirectional &&
        plan.rows === rows,
    )
    if (known !== undefined) return known
    if (this.#plans.length === MAX_ATTENTION_PLANS)
      throw new Error(`more than ${MAX_ATTENTION_PLANS} kinds of attention layers in one model`)
    const plan = new AttentionPlan(this.#plans.length, tile, capacity, isBidirectional, rows)
    this.#plans.push(plan)
    return plan
  }
}

/** Where a region begins, in units of 16 bytes; 0 where the pool has no such region. */
const base = ({ regions }: KvPool, region: 1 | 2): number => (regions[region]?.base ?? 0) / 16
