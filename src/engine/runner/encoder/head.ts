/** What follows the pooling, computed on the host: dense layers over one row per text, classifiers, scaling to length 1. */
import { gelu } from '../../../kernels/reference/arithmetic.ts'
import { readMatrix, readVector, type WeightSource } from '../../weights/source.ts'
import { dequantize } from '../../../kernels/dequantize.ts'
import type { EncoderSpec } from './spec.ts'

export type HeadActivation = 'none' | 'tanh' | 'relu' | 'gelu'

/** y = act(W x + b) */
export interface Dense {
  readonly rows: number
  readonly cols: number
  readonly weight: Float32Array // [rows, cols]
  readonly bias: Float32Array | null
  readonly activation: HeadActivation
}

const ACTIVATIONS: Readonly<Record<HeadActivation, (x: number) => number>> = {
  none: (x) => x,
  tanh: Math.tanh,
  relu: (x) => Math.max(0, x),
  gelu,
}

/** y [rows] = act(W x + b) for x [cols]. */
export function applyDense({ rows, cols, weight, bias, activation }: Dense, x: Float32Array): Float32Array {
  const act = ACTIVATIONS[activation]
  const y = new Float32Array(rows)
  for (let row = 0; row < rows; row++) {
    let sum = 0
    for (let i = 0, at = row * cols; i < cols; i++, at++) sum += weight[at]! * x[i]!
    y[row] = act(sum + (bias?.[row] ?? 0))
  }
  return y
}

/** Scales a row to length 1, in place. A row of zeros stays as it is. */
export function normalize(x: Float32Array): Float32Array {
  let squares = 0
  for (const value of x) squares += value * value
  const scale = squares > 0 ? 1 / Math.sqrt(squares) : 0
  for (let i = 0; i < x.length; i++) x[i] = x[i]! * scale
  return x
}

interface HostLayerNorm {
  readonly weight: Float32Array
  readonly bias: Float32Array | null
  readonly eps: number
}

/** LayerNorm of one row. */
export function normalizeRow(x: Float32Array, { weight, bias, eps }: HostLayerNorm): Float32Array {
  const mean = x.reduce((sum, value) => sum + value, 0) / x.length
  const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length
  const inverse = 1 / Math.sqrt(variance + eps)
  return x.map((value, i) => (value - mean) * inverse * weight[i]! + (bias?.[i] ?? 0))
}

/** Computes logits from a pooled row: a dense layer and a norm, where the model has them, then the output layer. */
interface Classifier {
  readonly dense: Dense | null
  readonly norm: HostLayerNorm | null
  readonly output: Dense
}

/** The classifier of a checkpoint with the names of names.ts; null: there is none. @throws ModelError for a tensor with another shape */
export async function readClassifier(source: WeightSource, spec: EncoderSpec): Promise<Classifier | null> {
  const { hiddenSize, headActivation, normEps } = spec
  const has = (name: string): boolean => source.tensors.has(name)
  const read = async (name: string, rows: number, activation: HeadActivation): Promise<Dense> => ({
    rows,
    cols: hiddenSize,
    weight: dequantize(await readMatrix(source, `${name}.weight`, rows, hiddenSize)),
    bias: has(`${name}.bias`) ? await readVector(source, `${name}.bias`, rows) : null,
    activation,
  })
  const output = source.tensors.get('classifier.weight') ?? null
  // In GGUF files the only layer of a head has the name that the first of two layers has.
  const isSingle = output === null && source.tensors.get('dense.weight')?.shape[0] !== hiddenSize && has('dense.weight')
  if (output === null && !isSingle) return null
  const rows = (isSingle ? source.tensors.get('dense.weight') : output)?.shape[0] ?? spec.numLabels
  const dense = !isSingle && has('dense.weight') ? 'dense' : has('pooler.weight') ? 'pooler' : null
  return {
    dense: dense === null ? null : await read(dense, hiddenSize, headActivation),
    norm: has('dense_norm.weight')
      ? {
          weight: await readVector(source, 'dense_norm.weight', hiddenSize),
          bias: has('dense_norm.bias') ? await readVector(source, 'dense_norm.bias', hiddenSize) : null,
          eps: normEps,
        }
      : null,
    output: await read(isSingle ? 'dense' : 'classifier', rows, 'none'),
  }
}

/** The labels' logits for one pooled row. */
export function classify({ dense, norm, output }: Classifier, pooled: Float32Array): Float32Array {
  let x = dense === null ? pooled : applyDense(dense, pooled)
  if (norm !== null) x = normalizeRow(x, norm)
  return applyDense(output, x)
}

/** Probability of "relevant": the sigmoid of one logit, or the softmax over the two logits of [irrelevant, relevant]. */
export function relevanceOf(logits: Float32Array): number {
  const logit = logits.length === 1 ? logits[0]! : logits[1]! - logits[0]!
  return 1 / (1 + Math.exp(-logit))
}
