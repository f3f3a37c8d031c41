/** The state pool and the ops that carry a state along a sequence: convolution, gatedDelta, selectiveScan. Also sigmoidGate. */
import type {
  Activation,
  BackendLimits,
  Columns,
  ConvolutionOptions,
  GatedDeltaOptions,
  SelectiveScanOptions,
  StateLayout,
  StateShape,
  StepInput,
} from '../ops.ts'
import {
  bind,
  bufferBytes,
  createRows,
  createStorage,
  type GpuActivation,
  type GpuContext,
  Launch,
  type PreparedOp,
} from './context.ts'
import type { BindingKind, KernelSource } from './pipelines.ts'

const CONVOLUTION: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'read', 'write', 'write']
const PREPARE: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'read', 'read', 'write', 'write']
const SCAN: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'read', 'write', 'write']
const GATE_NORM: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'write']
const SIGMOID_GATE: readonly BindingKind[] = ['read', 'uniform', 'read', 'write']

/** Channels per workgroup of a convolution, and columns per workgroup of sigmoidGate. */
const BLOCK = 64
/** Rows of a head's state [valueDim, keyDim] per workgroup of a scan. */
const SCAN_ROWS = 16

function convolutionSource(kernel: number, isGated: boolean, hasBias: boolean): KernelSource {
  const defines = { WS: BLOCK, K: kernel, GATED: isGated ? 1 : 0, BIAS: hasBias ? 1 : 0 }
  return { name: 'convolution', bindings: CONVOLUTION, defines }
}

/** The kernels of a scan over heads of `valueDim` values and keys of `keyDim`, in launch order. */
function scanSources(
  kind: 'gatedDelta' | 'selective',
  keyDim: number,
  valueDim: number,
): readonly [prepare: KernelSource, scan: KernelSource, gateNorm: KernelSource] {
  const isDelta = kind === 'gatedDelta'
  const DELTA = isDelta ? 1 : 0
  // Each thread takes sixteen values of a row of the state, or fewer where sixteen do not divide the row.
  const quads = keyDim / 4
  const QUADS = quads % 4 === 0 ? 4 : quads % 2 === 0 ? 2 : 1
  const LANES = quads / QUADS
  const scan = { D: keyDim, V: valueDim, ROWS: SCAN_ROWS, LANES, QUADS, WS: SCAN_ROWS * LANES, DELTA }
  return [
    { name: 'scan-prepare', bindings: PREPARE, defines: isDelta ? { WS: 32, D: keyDim, DELTA } : { WS: 32, DELTA } },
    { name: 'scan', bindings: SCAN, defines: scan },
    { name: 'gate-norm', bindings: GATE_NORM, defines: { WS: isDelta ? 64 : 256, GATES_FIRST: isDelta ? 0 : 1 } },
  ]
}

const SIGMOID_GATE_SOURCE: KernelSource = {
  name: 'sigmoid-gate',
  bindings: SIGMOID_GATE,
  defines: { WS: BLOCK },
}

/** Values per row of a convolution's stored inputs: the channels, padded to whole vec4s. */
const channelPitch = ({ channels }: StateShape): number => Math.ceil(channels / 4) * 4

/** Values of the earlier inputs that a convolution needs. They are at the start of a slot, before the recurrent state. */
const inputValues = (shape: StateShape): number => (shape.kernel - 1) * channelPitch(shape)

const slotValues = (shape: StateShape): number => inputValues(shape) + shape.heads * shape.valueDim * shape.keyDim

/** Bytes of one slot over all layers. */
export function stateSlotBytes({ layers }: StateLayout): number {
  return 4 * layers.reduce((sum, shape) => sum + slotValues(shape), 0)
}

/** Most slots of a pool: the states of each layer must fit one binding. */
export function maxStateSlots({ layers }: StateLayout, maxBindingBytes: number): number {
  return Math.floor(maxBindingBytes / (4 * Math.max(...layers.map(slotValues))))
}

/** The columns of x where q, k and v begin. */
interface ScanColumns {
  readonly q: number
  readonly k: number
  readonly v: number
}

interface Place {
  readonly shape: StateShape
  readonly buffer: GPUBuffer // f32 [slots, slotValues]
}

/** Owns the pool of states, which are f32, and launches the ops that use them. */
export class StateKernels {
  readonly #context: GpuContext
  readonly #limits: BackendLimits
  readonly #places: Place[] = []
  /** f32 [maxRows, heads, 2]: (decay, rate). All layers share the buffer. */
  #scalars: GPUBuffer | null = null
  #numSequences = 0

  constructor(context: GpuContext, limits: BackendLimits) {
    this.#context = context
    this.#limits = limits
  }

  get poolBytes(): number {
    return bufferBytes(this.#places.map(({ buffer }) => buffer))
  }

  get scratchBytes(): number {
    return this.#scalars?.size ?? 0
  }

  createPool({ layers, numSlots }: StateLayout): void {
    if (this.#places.length > 0) throw new Error('createStatePool was called twice')
    const { device, capabilities } = this.#context
    for (const [layer, shape] of layers.entries()) {
      const size = numSlots * slotValues(shape) * 4
      if (size > capabilities.maxBindingBytes)
        throw new Error(
          `${numSlots} states take ${size} bytes; this adapter binds at most ${capabilities.maxBindingBytes}`,
        )
      this.#places.push({ shape, buffer: createStorage(device, `states ${layer}`, size) })
    }
    const mostHeads = Math.max(...layers.map(({ heads }) => heads))
    if (mostHeads > 0) this.#scalars = createRows(this.#context, 'scan scalars', this.#limits.maxRows, mostHeads * 8)
  }

  beginStep({ numSequences, sequenceStarts, stateSlots }: StepInput): void {
    this.#numSequences = numSequences
    if (stateSlots === undefined) return
    const { words } = this.#context.step.reserve('stateRuns', 4 * numSequences)
    for (let sequence = 0; sequence < numSequences; sequence++) {
      words[4 * sequence] = sequenceStarts[sequence]!
      words[4 * sequence + 1] = sequenceStarts[sequence + 1]!
      words[4 * sequence + 2] = stateSlots[2 * sequence]!
      words[4 * sequence + 3] = stateSlots[2 * sequence + 1]!
    }
  }

  convolution(out: Activation, x: Activation, options: ConvolutionOptions): PreparedOp {
    const context = this.#context
    const { layer, weight, bias, kernel, offset, isGated } = options
    const { shape, buffer } = this.#place(layer)
    const { channels } = shape
    const target = context.activation(out)
    const source = context.activation(x)
    if (target.cols !== channels || kernel !== shape.kernel || source.cols < offset + channels * (isGated ? 3 : 1))
      throw new Error(
        `convolution: [.., ${source.cols}] -> [.., ${target.cols}] does not fit ${channels} channels and a kernel of ${shape.kernel}`,
      )
    const params = [channels, channelPitch(shape), source.stride, offset, target.stride, slotValues(shape)]
    const buffers = [
      source.buffer,
      context.vector(weight).buffer,
      bias === null ? context.nothing : context.vector(bias).buffer,
      buffer,
      target.buffer,
    ]
    const kernelSource = convolutionSource(kernel, isGated, bias !== null)
    const launch = new Launch(
      context,
      kernelSource,
      bind(context, `convolution ${layer}`, CONVOLUTION, params, buffers),
    )
    return {
      sources: [kernelSource],
      launch: () => launch.add(Math.ceil(channels / BLOCK), this.#numSequences),
    }
  }

  gatedDelta(out: Activation, x: Activation, options: GatedDeltaOptions): PreparedOp {
    const { shape } = this.#place(options.layer)
    const keyWidth = options.numKeyHeads * shape.keyDim
    return this.#scan(out, x, options, { q: 0, k: keyWidth, v: 2 * keyWidth })
  }

  selectiveScan(out: Activation, x: Activation, options: SelectiveScanOptions): PreparedOp {
    const { shape } = this.#place(options.layer)
    const width = shape.heads * shape.valueDim
    return this.#scan(out, x, options, { q: width + options.numKeyHeads * shape.keyDim, k: width, v: 0 })
  }

  /** x *= sigmoid(gate) */
  sigmoidGate(x: Activation, gate: Activation): PreparedOp {
    const target = this.#context.activation(x)
    const source = this.#context.activation(gate)
    const { cols } = target
    if (source.cols !== cols && source.cols !== 1)
      throw new Error(`sigmoidGate: ${source.cols} columns of ${gate.label} for ${cols} of ${x.label}`)
    const params = [cols, target.stride, source.stride, source.cols === 1 ? 0 : 1]
    const group = bind(this.#context, 'sigmoidGate', SIGMOID_GATE, params, [source.buffer, target.buffer])
    const launch = new Launch(this.#context, SIGMOID_GATE_SOURCE, group)
    return { sources: [SIGMOID_GATE_SOURCE], launch: (numRows) => launch.add(Math.ceil(cols / BLOCK), numRows) }
  }

  /** Three dispatches: preparation of each row, the scan, and the norm with its gate. */
  #scan(
    out: Activation,
    x: Activation,
    options: GatedDeltaOptions | SelectiveScanOptions,
    columns: ScanColumns,
  ): PreparedOp {
    const context = this.#context
    const { layer, numKeyHeads } = options
    const { shape, buffer } = this.#place(layer)
    const { heads, keyDim, valueDim } = shape
    const target = context.activation(out)
    const source = context.activation(x)
    const width = heads * valueDim
    if (
      target.cols !== width ||
      source.cols !== width + 2 * numKeyHeads * keyDim ||
      keyDim % 4 !== 0 ||
      width % 4 !== 0
    )
      throw new Error(
        `a scan: [.., ${source.cols}] -> [.., ${target.cols}] does not fit ${heads} heads of ${valueDim} and ${numKeyHeads} of ${keyDim}, in fours`,
      )
    const isDelta = 'beta' in options
    const sources = scanSources(isDelta ? 'gatedDelta' : 'selective', keyDim, valueDim)
    const prepare = new Launch(context, sources[0], this.#bindPrepare(source, shape, options))
    const scanParams = [
      heads,
      numKeyHeads,
      options.tilesKeyHeads ? 1 : 0,
      source.stride / 4,
      columns.q / 4,
      columns.k / 4,
      columns.v / 4,
      target.stride,
      slotValues(shape) / 4,
      inputValues(shape) / 4,
    ]
    const skip = isDelta ? context.nothing : context.vector(options.skip).buffer
    const scanBuffers = [source.buffer, this.#scalars!, skip, buffer, target.buffer]
    const scan = new Launch(context, sources[1], bind(context, `scan ${layer}`, SCAN, scanParams, scanBuffers))
    const gateNorm = new Launch(context, sources[2], this.#bindGateNorm(target, shape, options))
    const blocks = heads * Math.ceil(valueDim / SCAN_ROWS)
    return {
      sources,
      launch: (numRows) => {
        prepare.add(isDelta ? 2 * numKeyHeads + 1 : 1, numRows)
        scan.add(blocks, this.#numSequences, 8 * numRows * width * keyDim)
        gateNorm.add(isDelta ? heads : numKeyHeads, numRows)
      },
    }
  }

  #bindPrepare(
    x: GpuActivation,
    { heads }: StateShape,
    options: GatedDeltaOptions | SelectiveScanOptions,
  ): GPUBindGroup {
    const context = this.#context
    const step = this.#columns(options.step)
    const beta = 'beta' in options ? this.#columns(options.beta) : null
    const params = [
      heads,
      x.stride,
      step.stride,
      step.offset,
      beta?.stride ?? 0,
      beta?.offset ?? 0,
      options.numKeyHeads,
    ]
    const buffers = [
      step.buffer,
      beta?.buffer ?? context.nothing,
      context.vector(options.stepBias).buffer,
      context.vector(options.decayRate).buffer,
      this.#scalars!,
      x.buffer,
    ]
    return bind(context, `scan prepare ${options.layer}`, PREPARE, params, buffers)
  }

  /** The delta rule normalises each head separately, with the same weights. Mamba-2 normalises all heads of a key head together. */
  #bindGateNorm(
    target: GpuActivation,
    { heads, valueDim }: StateShape,
    options: GatedDeltaOptions | SelectiveScanOptions,
  ): GPUBindGroup {
    const isDelta = 'beta' in options
    const gate = this.#columns(options.gate)
    const width = isDelta ? valueDim : (heads * valueDim) / options.numKeyHeads
    const { weight, eps } = options.norm
    const params = [
      width,
      target.stride,
      gate.stride,
      gate.offset,
      isDelta ? 0 : width,
      { f32: 1 / width },
      { f32: eps },
    ]
    const buffers = [gate.buffer, this.#context.vector(weight).buffer, target.buffer]
    return bind(this.#context, `gate norm ${options.layer}`, GATE_NORM, params, buffers)
  }

  #columns({ x, offset }: Columns): { buffer: GPUBuffer; stride: number; offset: number } {
    const { buffer, stride } = this.#context.activation(x)
    return { buffer, stride, offset }
  }

  #place(layer: number): Place {
    const place = this.#places[layer]
    if (place === undefined)
      throw new Error(`layer ${layer} is outside the pool of states of ${this.#places.length} layers`)
    return place
  }
}
