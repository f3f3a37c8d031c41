/** The MLP that every row goes through. */
import type { Activated, Xielu } from '../../../kernels/ops.ts'
import type { DenseMlpSpec, XieluSpec } from '../decoder-spec.ts'
import type { LayerParts, Mlp } from '../layer-parts.ts'
import type { Parameters, Part } from '../parameters.ts'

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

/** Loads gate, up and down projections and the norms around them. @throws ModelError */
export async function loadDense({ parameters, spec }: LayerParts, mlp: DenseMlpSpec, base: string): Promise<Mlp> {
  const { hiddenSize, names, normPlacement } = spec
  const { activation, hasBias, isGated, width } = mlp
  const up = upParts(names.gateUp, base, mlp)
  const down = [[`${base}${names.down}`, hiddenSize]] as const
  const own = typeof activation === 'string' ? activation : await loadXielu(parameters, activation, base)
  const activate: { readonly glu: Activated } | { readonly activation: Activated | Xielu } =
    isGated && typeof own === 'string' ? { glu: own } : { activation: own }
  const inner = parameters.activation('inner', width)
  const weights = {
    norm: normPlacement === 'post' ? undefined : await parameters.norm(`${base}${names.mlpNorm}`, hiddenSize),
    up: await parameters.matrix(up, hiddenSize, { glu: isGated }), // [2 width, hidden], gate first; without a gate [width, hidden]
    upBias: await parameters.bias(hasBias, up),
    down: await parameters.matrix(down, width), // [hidden, width]
    downBias: await parameters.bias(hasBias, down),
    outputNorm: normPlacement === 'pre' ? null : await parameters.norm(`${base}${names.feedForwardNorm}`, hiddenSize),
  }
  return {
    record(backend, hidden, branch, scale) {
      const { norm, outputNorm } = weights
      backend.linear(inner, hidden, weights.up, { norm, bias: weights.upBias, ...activate })
      backend.linear(branch, inner, weights.down, { bias: weights.downBias, residual: outputNorm === null })
      if (outputNorm !== null) backend.normAdd(hidden, branch, outputNorm, scale)
    },
  }
}

async function loadXielu(parameters: Parameters, { stored }: XieluSpec, base: string): Promise<Xielu> {
  const softplus = (value: number): number => Math.log1p(Math.exp(value))
  const { alphaP, alphaN, beta } = stored ?? {
    alphaP: await parameters.scalar(`${base}mlp.act_fn.alpha_p`),
    alphaN: await parameters.scalar(`${base}mlp.act_fn.alpha_n`),
    beta: 0.5,
  }
  return { kind: 'xielu', alphaP: softplus(alphaP), alphaN: beta + softplus(alphaN), beta }
}
