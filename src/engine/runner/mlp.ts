/** What follows the attention in a layer: its description, its tensors, its ops. */
import type { Activation, Backend, Matrix, Norm, Vector } from '../../kernels/ops.ts'
import type { WeightSource } from '../weights/source.ts'
import { expectLinear, type Parameters, type Part } from './parameters.ts'
import type { DecoderSpec } from './spec.ts'

export type Activate = 'silu' | 'gelu_tanh'

/** x += W_down (act(W_gate x) * W_up x) */
export interface DenseMlpSpec {
  readonly kind: 'dense'
  readonly width: number
  readonly activation: Activate
  readonly hasBias: boolean
}

export type MlpSpec = DenseMlpSpec

/** A layer's loaded MLP. */
export interface Mlp {
  /** Adds the MLP of `hidden` to it. `branch`: room for an output that is normalised before it is added. */
  record(hidden: Activation, branch: Activation): void
}

interface DenseWeights {
  /** Of the input. */
  readonly norm: Norm | undefined
  readonly gateUp: Matrix // [2 width, hidden]
  readonly gateUpBias: Vector | undefined
  readonly down: Matrix // [hidden, width]
  readonly downBias: Vector | undefined
  /** Of the output, where that is normalised. */
  readonly outputNorm: Norm | null
}

class DenseMlp implements Mlp {
  readonly #backend: Backend
  readonly #spec: DenseMlpSpec
  readonly #inner: Activation // [rows, width]
  readonly #weights: DenseWeights

  constructor(backend: Backend, spec: DenseMlpSpec, inner: Activation, weights: DenseWeights) {
    this.#backend = backend
    this.#spec = spec
    this.#inner = inner
    this.#weights = weights
  }

  record(hidden: Activation, branch: Activation): void {
    const { norm, gateUp, gateUpBias, down, downBias, outputNorm } = this.#weights
    this.#backend.linear(this.#inner, hidden, gateUp, { norm, bias: gateUpBias, glu: this.#spec.activation })
    this.#backend.linear(branch, this.#inner, down, { bias: downBias, residual: outputNorm === null })
    if (outputNorm !== null) this.#backend.normAdd(hidden, branch, outputNorm)
  }
}

function gateUpParts({ names }: DecoderSpec, base: string, width: number): readonly Part[] {
  const [gate, up] = names.gateUp
  return up === undefined
    ? [[`${base}${gate}`, 2 * width]]
    : [
        [`${base}${gate}`, width],
        [`${base}${up}`, width],
      ]
}

/** Checks the tensors of layer `base`'s MLP. Throws ModelError. */
export function expectMlp(source: WeightSource, spec: DecoderSpec, mlp: MlpSpec, base: string): void {
  const { hiddenSize, names } = spec
  expectLinear(source, gateUpParts(spec, base, mlp.width), hiddenSize, mlp.hasBias)
  expectLinear(source, [[`${base}${names.down}`, hiddenSize]], mlp.width, mlp.hasBias)
}

/** Loads the MLP of layer `base`. */
export async function loadMlp(
  backend: Backend,
  parameters: Parameters,
  spec: DecoderSpec,
  mlp: MlpSpec,
  base: string,
): Promise<Mlp> {
  const { hiddenSize, names, normPlacement } = spec
  const gateUp = gateUpParts(spec, base, mlp.width)
  const down = [[`${base}${names.down}`, hiddenSize]] as const
  return new DenseMlp(backend, mlp, parameters.activation('inner', mlp.width), {
    norm: normPlacement === 'post' ? undefined : await parameters.norm(`${base}${names.mlpNorm}`, hiddenSize),
    gateUp: await parameters.matrix(gateUp, hiddenSize, { glu: true }),
    gateUpBias: await parameters.bias(mlp.hasBias, gateUp),
    down: await parameters.matrix(down, mlp.width),
    downBias: await parameters.bias(mlp.hasBias, down),
    outputNorm: normPlacement === 'pre' ? null : await parameters.norm(`${base}${names.feedForwardNorm}`, hiddenSize),
  })
}
