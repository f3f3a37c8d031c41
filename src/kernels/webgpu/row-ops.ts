/** Ops on rows: rmsNorm by groups of columns, add, multiply, sparseGelu, matchLength, residual streams and keepOutputs. */
import type { Activation, Columns, Norm, StreamOptions, Vector } from '../ops.ts'
import { bind, createUniform, type GpuActivation, type GpuContext, Launch, type PreparedOp } from './context.ts'
import type { BindingKind, KernelSource } from './pipelines.ts'

const NORM: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'write']
const NORM_INPLACE: readonly BindingKind[] = ['read', 'uniform', 'read', 'write']
const PAIR: readonly BindingKind[] = ['read', 'uniform', 'read', 'write']
const SPARSE_GELU: readonly BindingKind[] = ['read', 'uniform', 'write']
const KEEP: readonly BindingKind[] = ['read', 'uniform', 'write']
/** Without the step buffer: with it and four streams, there would be more storage buffers than the 8 that WebGPU guarantees. */
const STREAMS: readonly BindingKind[] = ['uniform', 'read', 'read', 'read', 'write']

/** Columns per workgroup of `add`, `multiply` and `keepOutputs`. */
const BLOCK = 64
const MAX_STREAMS = 4

function normSource(isInPlace: boolean): KernelSource {
  const defines = { WS: 64, INPLACE: isInPlace ? 1 : 0 }
  return { name: 'rms-norm', bindings: isInPlace ? NORM_INPLACE : NORM, defines }
}

function pairSource(multiplies: boolean): KernelSource {
  return { name: 'pair', bindings: PAIR, defines: { WS: BLOCK, MULTIPLY: multiplies ? 1 : 0 } }
}

const SPARSE_GELU_SOURCE: KernelSource = { name: 'sparse-gelu', bindings: SPARSE_GELU, defines: { WS: 128 } }
const KEEP_SOURCE: KernelSource = { name: 'keep-outputs', bindings: KEEP, defines: { WS: BLOCK } }
const MATCH_LENGTH_SOURCE: KernelSource = { name: 'match-length', bindings: PAIR, defines: { WS: 128 } }

function streamsSource(N: number, ACTIVE: number, corrects: boolean): KernelSource {
  const bindings = [...STREAMS, ...Array.from({ length: N }, (): BindingKind => 'write')]
  const defines = { WS: 128, N, ACTIVE, CORRECTS: corrects ? 1 : 0, COUNT: corrects ? N : N * N }
  return { name: 'streams', bindings, defines }
}

/** out = norm(x), separately for each group of norm.weight.length columns; out may be x. */
export function rmsNorm(context: GpuContext, out: Activation, x: Activation, { weight, eps }: Norm): PreparedOp {
  const { target, source } = pairOf(context, out, x)
  const width = weight.length
  if (source.cols % width !== 0)
    throw new Error(`rmsNorm: ${source.cols} columns do not divide into groups of ${width}`)
  const isInPlace = target === source
  const kernel = normSource(isInPlace)
  const params = [width, source.stride, target.stride, { f32: 1 / width }, { f32: eps }]
  const buffers = [context.vector(weight).buffer, ...(isInPlace ? [] : [source.buffer]), target.buffer]
  const launch = new Launch(context, kernel, bind(context, 'rmsNorm', kernel.bindings, params, buffers))
  return { sources: [kernel], launch: (numRows) => launch.add(numRows, source.cols / width) }
}

/** residual = (residual + x) * scale */
export function addRows(context: GpuContext, residual: Activation, x: Activation, scale: number): PreparedOp {
  const { target, source } = pairOf(context, residual, x)
  return pair(context, target, source, 0, scale)
}

/** x *= y */
export function multiplyRows(context: GpuContext, x: Activation, { x: y, offset }: Columns): PreparedOp {
  const [target, source] = [context.activation(x), context.activation(y)]
  if (offset + target.cols > source.cols)
    throw new Error(
      `multiply: columns ${offset} .. ${offset + target.cols - 1} exceed the ${source.cols} of ${y.label}`,
    )
  return pair(context, target, source, offset, null)
}

/** target = (target + source) * scale, or with `scale` null target * source; the columns of source from `offset` on. */
function pair(
  context: GpuContext,
  target: GpuActivation,
  source: GpuActivation,
  offset: number,
  scale: number | null,
): PreparedOp {
  if (target === source) throw new Error(`${target.label}: add and multiply need two different activations`)
  const kernel = pairSource(scale === null)
  const params = [target.cols, target.stride, source.stride, offset, { f32: scale ?? 1 }]
  const launch = new Launch(context, kernel, bind(context, 'pair', PAIR, params, [source.buffer, target.buffer]))
  return { sources: [kernel], launch: (numRows) => launch.add(Math.ceil(target.cols / BLOCK), numRows) }
}

/** x = gelu_tanh(max(0, x - mean - deviations * standard deviation)) */
export function sparseGelu(context: GpuContext, x: Activation, deviations: number): PreparedOp {
  const { cols, stride, buffer } = context.activation(x)
  const params = [cols, stride, { f32: 1 / cols }, { f32: deviations }]
  const launch = new Launch(context, SPARSE_GELU_SOURCE, bind(context, 'sparseGelu', SPARSE_GELU, params, [buffer]))
  return { sources: [SPARSE_GELU_SOURCE], launch: (numRows) => launch.add(numRows) }
}

/** x *= rms(reference) / rms(x) */
export function matchLength(context: GpuContext, x: Activation, reference: Activation): PreparedOp {
  const { target, source } = pairOf(context, x, reference)
  if (target === source) throw new Error(`matchLength: ${x.label} cannot be its own reference`)
  const params = [target.cols, target.stride, source.stride, { f32: 1 / target.cols }]
  const group = bind(context, 'matchLength', PAIR, params, [source.buffer, target.buffer])
  const launch = new Launch(context, MATCH_LENGTH_SOURCE, group)
  return { sources: [MATCH_LENGTH_SOURCE], launch: (numRows) => launch.add(numRows) }
}

/** A prediction of the streams (`scale` null) or a correction: see Backend.predictStreams and correctStreams. */
export function streams(
  context: GpuContext,
  x: Activation,
  scale: Vector | null,
  { streams: all, active, logits, coefficients }: StreamOptions,
): PreparedOp {
  const own = context.activation(x)
  const placed = all.map((stream) => context.activation(stream))
  const router = context.activation(logits)
  if (all.length > MAX_STREAMS || placed.some(({ cols }) => cols !== own.cols) || router.cols !== all.length)
    throw new Error(`${all.length} streams, ${router.cols} logits: at most ${MAX_STREAMS} of [.., ${own.cols}]`)
  const kernel = streamsSource(all.length, active, scale !== null)
  const params = [own.cols, own.stride, placed[0]!.stride, router.stride]
  const scales = scale === null ? context.nothing : context.vector(scale).buffer
  const buffers = [
    createUniform(context.device, 'streams', params),
    router.buffer,
    context.vector(coefficients).buffer,
    scales,
    own.buffer,
    ...placed.map(({ buffer }) => buffer),
  ]
  const launch = new Launch(context, kernel, context.pipelines.bind(kernel.bindings, buffers))
  return { sources: [kernel], launch: (numRows) => launch.add(numRows) }
}

/** Moves the output rows of each activation to its front. */
export function keepOutputs(context: GpuContext, activations: readonly Activation[]): PreparedOp {
  const launches = activations.map((activation) => {
    const { buffer, stride } = context.activation(activation)
    const group = bind(context, 'keepOutputs', KEEP, [stride], [buffer])
    return { launch: new Launch(context, KEEP_SOURCE, group), columns: Math.ceil(stride / BLOCK) }
  })
  return {
    sources: [KEEP_SOURCE],
    launch(numRows) {
      if (context.step.get('numOutputRows') === numRows) return
      for (const { launch, columns } of launches) launch.add(columns)
    },
  }
}

/** The GPU activations of `out` and `x`. @throws Error where their widths differ */
function pairOf(context: GpuContext, out: Activation, x: Activation) {
  const [target, source] = [context.activation(out), context.activation(x)]
  if (target.cols !== source.cols)
    throw new Error(`${out.label} [.., ${target.cols}] and ${x.label} [.., ${source.cols}] differ in width`)
  return { target, source }
}
