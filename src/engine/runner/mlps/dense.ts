/** The MLP that all rows go through. */
import type { Backend } from '../../../kernels/backend.ts'
import type { Activation, Activated, Matrix, Norm, Vector, Xielu } from '../../../kernels/ops.ts'
import type { WeightSource } from '../../weights/source.ts'
import { expectLinear, type Parameters, type Part } from '../parameters.ts'
import type { DecoderSpec } from '../spec.ts'
import type { Mlp, MlpParts } from './mlp.ts'

/** x += W_down (act(W_gate x) * W_up x), or without a gate x += W_down act(W_up x) */
export interface DenseMlpSpec {
  readonly kind: 'dense'
  readonly width: number
  readonly isGated: boolean
  /** xielu: of an MLP without a gate. */
  readonly activation: Activated | XieluSpec
  readonly hasBias: boolean
}

/** Parameters as trained; null: they are tensors of the layer's `mlp.act_fn`. */
interface XieluSpec {
  readonly kind: 'xielu'
  readonly stored: { readonly alphaP: number; readonly alphaN: number; readonly beta: number } | null
}

interface DenseWeights {
  /** Of the input. */
  readonly norm: Norm | undefined
  readonly up: Matrix // [2 width, hidden], gate first; without a gate [width, hidden]
  readonly upBias: Vector | undefined
  readonly down: Matrix // [hidden, width]
  readonly downBias: Vector | undefined
  /** Of the output, where that is normalised. */
  readonly outputNorm: Norm | null
}

type Activate = { readonly glu: Activated } | { readonly activation: Activated | Xielu }

class DenseMlp implements Mlp {
  readonly #backend: Backend
  readonly #activate: Activate
  readonly #inner: Activation // [rows, width]
  readonly #weights: DenseWeights

  constructor(backend: Backend, activate: Activate, inner: Activation, weights: DenseWeights) {
    this.#backend = backend
    this.#activate = activate
    this.#inner = inner
    this.#weights = weights
  }

  record(hidden: Activation, branch: Activation, scale: number): void {
    const { norm, up, upBias, down, downBias, outputNorm } = this.#weights
    this.#backend.linear(this.#inner, hidden, up, { norm, bias: upBias, ...this.#activate })
    this.#backend.linear(branch, this.#inner, down, { bias: downBias, residual: outputNorm === null })
    if (outputNorm !== null) this.#backend.normAdd(hidden, branch, outputNorm, scale)
  }
}

/** The rows of gate and up projection, in one tensor or in two; or of the up projection alone. */
export function upParts(
  names: readonly string[],
  base: string,
  { width, isGated }: { readonly width: number; readonly isGated: boolean },
): readonly Part[] {
  const [only, up] = names
  return up === undefined
    ? [[`${base}${only}`, isGated ? 2 * width : width]]
    : [
        [`${base}${only}`, width],
        [`${base}${up}`, width],
      ]
}

/** Checks the tensors of an MLP. @throws ModelError */
export function expectDense(source: WeightSource, spec: DecoderSpec, mlp: DenseMlpSpec, base: string): void {
  const { hiddenSize, names } = spec
  expectLinear(source, upParts(names.gateUp, base, mlp), hiddenSize, mlp.hasBias)
  expectLinear(source, [[`${base}${names.down}`, hiddenSize]], mlp.width, mlp.hasBias)
}

/** Loads gate, up and down projections. @throws ModelError */
export async function loadDense(
  { backend, parameters, spec }: MlpParts,
  mlp: DenseMlpSpec,
  base: string,
): Promise<Mlp> {
  const { hiddenSize, names, normPlacement } = spec
  const { activation } = mlp
  const up = upParts(names.gateUp, base, mlp)
  const down = [[`${base}${names.down}`, hiddenSize]] as const
  const own = typeof activation === 'string' ? activation : await loadXielu(parameters, activation, base)
  const activate: Activate = mlp.isGated && typeof own === 'string' ? { glu: own } : { activation: own }
  return new DenseMlp(backend, activate, parameters.activation('inner', mlp.width), {
    norm: normPlacement === 'post' ? undefined : await parameters.norm(`${base}${names.mlpNorm}`, hiddenSize),
    up: await parameters.matrix(up, hiddenSize, { glu: mlp.isGated }),
    upBias: await parameters.bias(mlp.hasBias, up),
    down: await parameters.matrix(down, mlp.width),
    downBias: await parameters.bias(mlp.hasBias, down),
    outputNorm: normPlacement === 'pre' ? null : await parameters.norm(`${base}${names.feedForwardNorm}`, hiddenSize),
  })
}

async function loadXielu(parameters: Parameters, { stored }: XieluSpec, base: string): Promise<Xielu> {
  const tensor = async (name: string): Promise<number> => (await parameters.values(`${base}mlp.act_fn.${name}`, 1))[0]!
  const softplus = (value: number): number => Math.log1p(Math.exp(value))
  const { alphaP, alphaN, beta } = stored ?? {
    alphaP: await tensor('alpha_p'),
    alphaN: await tensor('alpha_n'),
    beta: 0.5,
  }
  return { kind: 'xielu', alphaP: softplus(alphaP), alphaN: beta + softplus(alphaN), beta }
}
