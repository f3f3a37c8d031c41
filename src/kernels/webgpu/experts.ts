/** route and experts: their buffers, kernels and launches. */
import { checkExperts } from '../experts.ts'
import type { Activation, ExpertsOptions, ExpertWeights, RouteOptions, Routing, RoutingShape } from '../ops.ts'
import {
  bind,
  bufferBytes,
  createRows,
  createStorage,
  Launch,
  LongLaunch,
  type GpuActivation,
  type GpuContext,
  type PreparedOp,
} from './context.ts'
import type { ExpertShard, GpuExpertMatrix } from './expert-matrix.ts'
import { activationFlags, expertSources, FLAG, vectorColumns } from './linear.ts'
import type { BindingKind, KernelSource } from './pipelines.ts'
import type { PreparedRows } from './prepared-rows.ts'
import { ROW_WORDS } from './step-layout.ts'

const ROUTE: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'write', 'read']
const SORT: readonly BindingKind[] = ['read', 'uniform', 'write']
const COMBINE: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'write', 'read']
const ROUTE_FLAG = { sigmoid: 1, bias: 2, normalizes: 4, scales: 8 } as const

/** Pairs per tile: TILE_PAIRS of routing.wgsl. */
const TILE_PAIRS = 64
/** Average number of pairs per expert from which on tiles are used. With fewer, pairs share too few weights for tiles to pay off. */
const TILE_FROM = 4
/** Most workgroups in one dimension of a dispatch. */
const MAX_WORKGROUPS = 65_535
/** Most experts: their scores must fit the workgroup memory that every adapter has. */
const MAX_EXPERTS = 1024

export interface GpuRouting extends Routing {
  readonly maxPairs: number
  readonly buffer: GPUBuffer // routing.wgsl
  readonly activations: GpuActivation // [maxPairs, inner]
  readonly outputs: GpuActivation // [maxPairs, outer]
}

/** Most tiles that `numPairs` pairs can be cut into. */
function mostTiles(numPairs: number, numExperts: number): number {
  return Math.floor(numPairs / TILE_PAIRS) + Math.min(numPairs, numExperts)
}

const paddedExperts = (numExperts: number): number => Math.ceil(numExperts / 64) * 64

/** The kernels that choose experts and that sort (row, expert) pairs by expert. */
function routeSources(numExperts: number): readonly [KernelSource, KernelSource] {
  const defines = { EXPERTS: paddedExperts(numExperts) }
  return [
    { name: 'route', bindings: ROUTE, defines },
    { name: 'route-sort', bindings: SORT, defines },
  ]
}

const COMBINE_SOURCE: KernelSource = { name: 'combine', bindings: COMBINE, defines: {} }

/** Whether the pairs of a step are multiplied in tiles by expert, or one by one. */
const usesTiles = (numPairs: number, { numExperts }: Routing): boolean => numPairs >= TILE_FROM * numExperts

/** Launches routing, the experts' products and their weighted sum. */
export class ExpertKernels {
  readonly #context: GpuContext
  readonly #prepared: PreparedRows
  readonly #routings: GpuRouting[] = []

  constructor(context: GpuContext, prepared: PreparedRows) {
    this.#context = context
    this.#prepared = prepared
  }

  get scratchBytes(): number {
    return bufferBytes(
      this.#routings.flatMap(({ buffer, activations, outputs }) => [buffer, activations.buffer, outputs.buffer]),
    )
  }

  /** Creates the buffers of a routing. @throws Error where the adapter's limits do not allow that many experts or rows */
  createRouting(label: string, shape: RoutingShape, maxRows: number, takeId: () => number): GpuRouting {
    const { device } = this.#context
    const maxPairs = maxRows * shape.topK
    if (shape.numExperts > MAX_EXPERTS)
      throw new Error(`${label}: at most ${MAX_EXPERTS} experts, found ${shape.numExperts}`)
    if (maxPairs + shape.numExperts > MAX_WORKGROUPS)
      throw new Error(
        `${label}: ${maxRows} rows with ${shape.topK} experts each are too many (--max-num-batched-tokens)`,
      )
    const activation = (name: string, cols: number): GpuActivation => {
      const stride = Math.ceil(cols / 32) * 32
      const buffer = createRows(this.#context, `${label} ${name}`, maxPairs, stride * 4)
      return { label: `${label} ${name}`, cols, stride, maxRows: maxPairs, id: takeId(), buffer }
    }
    const words = 3 * maxPairs + 1 + 3 * mostTiles(maxPairs, shape.numExperts)
    const routing = {
      ...shape,
      label,
      maxPairs,
      buffer: createStorage(device, label, words * 4),
      activations: activation('activations', shape.inner),
      outputs: activation('outputs', shape.outer),
    }
    this.#routings.push(routing)
    return routing
  }

  /** One dispatch, or two where the step's pairs are multiplied in tiles. */
  route(routing: GpuRouting, logits: Activation, options: RouteOptions): PreparedOp {
    const { numExperts, topK, maxPairs, label, buffer } = routing
    const { buffer: source, cols, stride } = this.#context.activation(logits)
    if (cols !== numExperts) throw new Error(`route ${label}: ${cols} logits for ${numExperts} experts`)
    const flags =
      (options.scores === 'sigmoid' ? ROUTE_FLAG.sigmoid : 0) |
      (options.bias === null ? 0 : ROUTE_FLAG.bias) |
      (options.normalizes ? ROUTE_FLAG.normalizes : 0) |
      (options.expertScales === undefined || options.expertScales === null ? 0 : ROUTE_FLAG.scales)
    const { count = 0, used = 0 } = options.groups ?? {}
    const bias = options.bias === null ? this.#context.nothing : this.#context.vector(options.bias).buffer
    const { expertScales = null } = options
    const scales = expertScales === null ? this.#context.nothing : this.#context.vector(expertScales).buffer
    const params = [numExperts, stride, topK, flags, count, used, { f32: options.scale }, maxPairs]
    const sources = routeSources(numExperts)
    const choose = new Launch(
      this.#context,
      sources[0],
      bind(this.#context, label, ROUTE, params, [source, bias, buffer, scales]),
    )
    const sort = new Launch(
      this.#context,
      sources[1],
      bind(
        this.#context,
        label,
        SORT,
        [numExperts, topK, maxPairs, ROW_WORDS[this.#context.stepRows].numRows],
        [buffer],
      ),
    )
    return {
      sources,
      launch: (numRows) => {
        choose.add(numRows)
        if (usesTiles(numRows * topK, routing)) sort.add(1)
      },
    }
  }

  experts(
    out: Activation,
    x: Activation,
    gateUp: GpuExpertMatrix,
    down: GpuExpertMatrix,
    { gateUpBias, downBias, bias }: Pick<ExpertWeights, 'gateUpBias' | 'downBias' | 'bias'>,
    routing: GpuRouting,
    options: ExpertsOptions,
  ): PreparedOp {
    const { norm, residual } = options
    const isGated = options.glu !== undefined
    checkExperts(out, x, gateUp, down, routing, isGated)
    if (gateUp.isGated !== isGated || down.isGated)
      throw new Error(`experts ${gateUp.label}: the matrices were not loaded for ${isGated ? 'glu' : 'an activation'}`)
    const context = this.#context
    const target = context.activation(out)
    const { topK, maxPairs, activations, outputs } = routing
    const source = context.activation(x)
    const prepareRows = this.#prepared.prepareOnce(source, gateUp, norm)
    const prepareInner = this.#prepared.prepare(activations, down, undefined, 'all')
    const first = this.#multiply(gateUp, source, activations, routing, topK, gateUpBias, activationFlags(options), norm)
    const second = this.#multiply(down, activations, outputs, routing, 1, downBias, 0, undefined)
    const params = [
      target.cols,
      outputs.stride,
      target.stride,
      topK,
      maxPairs,
      residual ? 1 : 0,
      bias === undefined ? 0 : 1,
    ]
    const biasBuffer = bias === undefined ? context.nothing : context.vector(bias).buffer
    const combine = new Launch(
      context,
      COMBINE_SOURCE,
      bind(context, gateUp.label, COMBINE, params, [outputs.buffer, routing.buffer, target.buffer, biasBuffer]),
    )
    return {
      sources: [
        ...(prepareRows?.sources ?? []),
        ...(prepareInner?.sources ?? []),
        ...first.sources,
        ...second.sources,
        COMBINE_SOURCE,
      ],
      launch: (numRows) => {
        prepareRows?.launch(numRows)
        first.launch(numRows)
        prepareInner?.launch(numRows * topK)
        second.launch(numRows)
        combine.add(numRows, Math.ceil(target.cols / 64))
      },
    }
  }

  #multiply(
    w: GpuExpertMatrix,
    x: GpuActivation,
    out: GpuActivation,
    routing: GpuRouting,
    pairsOfRow: number,
    bias: ExpertWeights['downBias'],
    flags: number,
    norm: ExpertsOptions['norm'],
  ): PreparedOp {
    const context = this.#context
    const { buffer: rows, stride } = this.#prepared.inputs(x, w, norm, 'all')
    const { rows: outputs, cols, form, isGated } = w
    const shape = { rows: outputs, cols, form, isGated, topK: routing.topK, isNormed: norm !== undefined }
    const { pairs, tiles } = expertSources(shape, context.capabilities.hasPackedDot)
    const groupAt = ({ codes, scales, firstExpert, numExperts, factorsAt }: ExpertShard, firstTile: number) => {
      const params = [
        out.cols,
        w.numBlocks,
        stride,
        out.stride,
        0,
        0,
        routing.maxPairs,
        out.cols,
        { f32: 1 },
        { f32: 1 },
        { f32: 0 },
        0,
        flags | (bias === undefined ? 0 : FLAG.bias),
        { f32: 0 },
        { f32: 0 },
        { f32: 0 },
        firstTile,
        { f32: 1 / w.cols },
        { f32: norm?.eps ?? 0 },
        pairsOfRow,
        routing.maxPairs,
        firstExpert,
        numExperts,
        w.packedRows,
        w.rows,
        factorsAt,
      ]
      const biases = bias === undefined ? context.nothing : context.vector(bias).buffer
      return bind(context, w.label, pairs.bindings, params, [rows, codes, scales, out.buffer, biases, routing.buffer])
    }
    const columns = vectorColumns(shape, w.packedRows)
    const pairLaunches = w.shards.map((shard) => new Launch(context, pairs, groupAt(shard, 0)))
    const tileLaunches = w.shards.map(
      (shard) => new LongLaunch(context, tiles, 'y', (firstTile) => groupAt(shard, firstTile)),
    )
    return {
      sources: [pairs, tiles],
      launch: (numRows) => {
        const numPairs = numRows * routing.topK
        const operations = 2 * w.packedRows * w.cols * numPairs
        if (!usesTiles(numPairs, routing)) {
          for (const launch of pairLaunches) launch.add(columns, numPairs, operations)
          return
        }
        const [x, y] = [Math.ceil(w.packedRows / TILE_PAIRS), mostTiles(numPairs, routing.numExperts)]
        for (const launch of tileLaunches) launch.add(x, y, operations)
      },
    }
  }
}
