/** An MLP whose gate lets only its largest values through (Gemma 3n's activation sparsity). */
import type { Backend } from '../../../kernels/backend.ts'
import type { Activation, Matrix, Norm } from '../../../kernels/ops.ts'
import type { WeightSource } from '../../weights/source.ts'
import { expectLinear } from '../parameters.ts'
import type { DecoderSpec } from '../spec.ts'
import type { Mlp, MlpParts } from './mlp.ts'

/** x += norm(W_down (gelu(max(0, g - cutoff)) * W_up x)) with g = W_gate x and a cutoff by its mean and standard deviation. */
export interface SparseMlpSpec {
  readonly kind: 'sparse'
  readonly width: number
  /** Standard deviations that the cutoff is above the mean. */
  readonly deviations: number
}

class SparseMlp implements Mlp {
  readonly #backend: Backend
  readonly #deviations: number
  readonly #inner: Activation // [rows, width]
  readonly #upper: Activation // [rows, width]
  readonly #weights: { norm: Norm; gate: Matrix; up: Matrix; down: Matrix; outputNorm: Norm }

  constructor(
    backend: Backend,
    deviations: number,
    [inner, upper]: readonly [Activation, Activation],
    weights: { norm: Norm; gate: Matrix; up: Matrix; down: Matrix; outputNorm: Norm },
  ) {
    this.#backend = backend
    this.#deviations = deviations
    this.#inner = inner
    this.#upper = upper
    this.#weights = weights
  }

  record(hidden: Activation, branch: Activation, scale: number): void {
    const backend = this.#backend
    const { norm, gate, up, down, outputNorm } = this.#weights
    backend.linear(this.#inner, hidden, gate, { norm })
    backend.sparseGelu(this.#inner, this.#deviations)
    backend.linear(this.#upper, hidden, up, { norm })
    backend.multiply(this.#inner, { x: this.#upper, offset: 0 })
    backend.linear(branch, this.#inner, down, {})
    backend.normAdd(hidden, branch, outputNorm, scale)
  }
}

/** Gate and up projection, each by its name. */
function gateAndUp({ names }: DecoderSpec, base: string): readonly [string, string] {
  const [gate, up] = names.gateUp
  if (up === undefined) throw new Error('a sparse MLP has its gate and up projections apart')
  return [`${base}${gate}`, `${base}${up}`]
}

/** Checks the tensors. Throws ModelError. */
export function expectSparse(source: WeightSource, spec: DecoderSpec, { width }: SparseMlpSpec, base: string): void {
  const { hiddenSize, names } = spec
  for (const name of gateAndUp(spec, base)) expectLinear(source, [[name, width]], hiddenSize, false)
  expectLinear(source, [[`${base}${names.down}`, hiddenSize]], width, false)
}

/** Loads the matrices of layer `base`. */
export async function loadSparse(
  { backend, parameters, spec }: MlpParts,
  mlp: SparseMlpSpec,
  base: string,
): Promise<Mlp> {
  const { hiddenSize, names } = spec
  const { width, deviations } = mlp
  const [gate, up] = gateAndUp(spec, base)
  const buffers = [parameters.activation('inner', width), parameters.activation('upper', width)] as const
  return new SparseMlp(backend, deviations, buffers, {
    norm: await parameters.norm(`${base}${names.mlpNorm}`, hiddenSize),
    gate: await parameters.matrix([[gate, width]], hiddenSize),
    up: await parameters.matrix([[up, width]], hiddenSize),
    down: await parameters.matrix([[`${base}${names.down}`, hiddenSize]], width),
    outputNorm: await parameters.norm(`${base}${names.feedForwardNorm}`, hiddenSize),
  })
}
