/** What follows attention in an encoder's layer: a dense MLP, or experts. */
import type { Backend } from '../../../kernels/backend.ts'
import type { Activation, ExpertWeights, Matrix, MatrixData, Vector } from '../../../kernels/ops.ts'
import { readVector, takeRows, transpose, type WeightSource } from '../../weights/source.ts'
import { ModelError } from '../runner.ts'
import type { Parameters, Part } from '../parameters.ts'
import type { EncoderSpec } from './spec.ts'

export interface LinearLayer {
  readonly matrix: Matrix
  readonly bias: Vector | undefined
}

/** A linear layer of the parts' rows, with biases if its first part has one. @throws ModelError for a tensor that is missing or has another shape */
export async function loadLinear(
  parameters: Parameters,
  parts: readonly Part[],
  cols: number,
  glu = false,
): Promise<LinearLayer> {
  const [[first = ''] = []] = parts
  const hasBias = parameters.has(`${first}.bias`)
  return { matrix: await parameters.matrix(parts, cols, { glu }), bias: await parameters.bias(hasBias, parts) }
}

export interface EncoderMlp {
  /** Adds mlp(input) to `hidden`, the residual stream. `input` is the normalised stream, or `hidden` itself. */
  record(backend: Backend, hidden: Activation, input: Activation): void
}

/** Loads the MLP of the layer with prefix `base`. @throws ModelError */
export async function loadEncoderMlp(
  backend: Backend,
  parameters: Parameters,
  spec: EncoderSpec,
  base: string,
  hasExperts: boolean,
): Promise<EncoderMlp> {
  const { hiddenSize, intermediateSize, isGated, activation } = spec
  if (hasExperts) return loadExpertsMlp(backend, parameters, spec, base)
  const inner = parameters.activation('inner', intermediateSize)
  const up = await loadLinear(parameters, upParts(parameters, spec, base), hiddenSize, isGated)
  const down = await loadLinear(parameters, [[`${base}down`, hiddenSize]], intermediateSize)
  const activate = isGated ? { glu: activation } : { activation }
  return {
    record(backend, hidden, input) {
      backend.linear(inner, input, up.matrix, { bias: up.bias, ...activate })
      backend.linear(hidden, inner, down.matrix, { bias: down.bias, residual: true })
    },
  }
}

/** Where the gate and up rows are stored: in two tensors, or in one with either of them first. */
function upParts(
  parameters: Parameters,
  { intermediateSize: rows, isGated }: EncoderSpec,
  base: string,
): readonly Part[] {
  if (!isGated) return [[`${base}up`, rows]]
  if (parameters.has(`${base}gate_up.weight`)) return [[`${base}gate_up`, 2 * rows]]
  if (parameters.has(`${base}up_gate.weight`))
    return [[`${base}up_gate`, 2 * rows, (row) => (row < rows ? row + rows : row - rows)]]
  // In GGUF files, a tensor with both gate and up rows has the name of the up projection of an MLP without a gate.
  if (!parameters.has(`${base}gate.weight`)) return [[`${base}up`, 2 * rows]]
  return [
    [`${base}gate`, rows],
    [`${base}up`, rows],
  ]
}

async function loadExpertsMlp(
  backend: Backend,
  parameters: Parameters,
  spec: EncoderSpec,
  base: string,
): Promise<EncoderMlp> {
  const { hiddenSize, intermediateSize, experts, activation, isGated } = spec
  const { source } = parameters
  if (experts === null || isGated)
    throw new ModelError(`${source.path}: ${base}experts: expected experts without a gate, as in nomic-embed-text-v2`)
  const { count, topK, normalizes } = experts
  const load = (name: string, rows: number, cols: number, isTransposed: boolean) =>
    backend.loadExperts(name, count, rows, cols, expertReader(source, name, count, rows, cols, isTransposed))
  const bias = `${base}experts.bias`
  const logits = parameters.activation('router logits', count)
  const routing = parameters.routing({ numExperts: count, topK, inner: intermediateSize, outer: hiddenSize })
  const router = await loadLinear(parameters, [[`${base}router`, count]], hiddenSize)
  const weights: ExpertWeights = {
    gateUp: await load(`${base}experts.up.weight`, intermediateSize, hiddenSize, false),
    down: await load(`${base}experts.down.weight`, hiddenSize, intermediateSize, true),
    ...(source.tensors.has(bias) ? { bias: backend.loadVector(bias, await readVector(source, bias, hiddenSize)) } : {}),
  }
  const route = { scores: 'softmax', bias: null, groups: null, normalizes, scale: 1 } as const
  return {
    record(backend, hidden, input) {
      backend.linear(logits, input, router.matrix, { bias: router.bias })
      backend.route(routing, logits, route)
      backend.experts(hidden, input, weights, routing, { activation, residual: true })
    },
  }
}

/**
 * Reads one expert's matrix [rows, cols]. The tensor is either stacked, [experts, rows, cols] (GGUF), or has the experts one below the other (the
 * published checkpoint): [experts x rows, cols], or with `isTransposed` [experts x cols, rows].
 * @throws ModelError for other shapes
 */
function expertReader(
  source: WeightSource,
  name: string,
  count: number,
  rows: number,
  cols: number,
  isTransposed: boolean,
): (expert: number) => Promise<MatrixData> {
  const shape = source.tensors.get(name)?.shape ?? []
  const is = (...expected: readonly number[]): boolean =>
    shape.length === expected.length && expected.every((size, i) => size === shape[i])
  if (is(count, rows, cols)) return (expert) => source.slice(name, expert)
  const [ownRows, ownCols] = isTransposed ? [cols, rows] : [rows, cols]
  if (!is(count * ownRows, ownCols))
    throw new ModelError(
      `${source.path}: tensor ${name} should be [${count}, ${rows}, ${cols}] or [${count * ownRows}, ${ownCols}] by config.json, found [${shape.join(', ')}]`,
    )
  let whole: Promise<MatrixData> | null = null
  return async (expert) => {
    whole ??= source.read(name)
    const own = takeRows(await whole, count * ownRows, ownRows, (row) => expert * ownRows + row)
    return isTransposed ? transpose(own, ownRows, ownCols) : own
  }
}
