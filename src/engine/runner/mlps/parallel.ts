/** A dense MLP and a mixture of experts side by side, each with norms of its own (Gemma 4's 26B). */
import type { RouteOptions } from '../../../kernels/ops.ts'
import type { ParallelMlpSpec } from '../decoder-spec.ts'
import type { LayerParts, Mlp } from '../layer-parts.ts'
import { upParts } from './dense.ts'

const GLU = 'gelu_tanh'

/** Loads the dense MLP, router, experts and all norms. @throws ModelError */
export async function loadParallel(
  { parameters, spec }: LayerParts,
  { width, numExperts, topK, expertWidth }: ParallelMlpSpec,
  base: string,
): Promise<Mlp> {
  const { hiddenSize, names, normEps } = spec
  const norm = (name: string) => parameters.norm(`${base}${name}`, hiddenSize)
  const gateUp = { name: `${base}experts.gate_up_proj`, rows: 2 * expertWidth }
  const down = { name: `${base}experts.down_proj`, rows: hiddenSize }
  // Created before the experts are loaded: each memory of the cpu backend keeps room for the routings that exist by then.
  const routing = parameters.routing({ numExperts, topK, inner: expertWidth, outer: hiddenSize })
  const rooted = (value: number) => value / Math.sqrt(hiddenSize)
  const weights = {
    norm: await norm(names.mlpNorm),
    gateUp: await parameters.matrix(upParts(names.gateUp, base, { width, isGated: true }), hiddenSize, { glu: true }), // [2 width, hidden]
    down: await parameters.matrix([[`${base}${names.down}`, hiddenSize]], width), // [hidden, width]
    denseOutputNorm: await norm('post_feedforward_layernorm_1'),
    routerNorm: { weight: await parameters.vector(`${base}router.scale`, [hiddenSize], rooted), eps: normEps },
    router: await parameters.matrix([[`${base}router.proj`, numExperts]], hiddenSize), // [numExperts, hidden]
    expertNorm: await norm('pre_feedforward_layernorm_2'),
    experts: {
      gateUp: await parameters.experts([gateUp], numExperts, hiddenSize, { glu: true }),
      down: await parameters.experts([down], numExperts, expertWidth),
    },
    expertOutputNorm: await norm('post_feedforward_layernorm_2'),
    outputNorm: await norm(names.feedForwardNorm),
  }
  const inner = parameters.activation('inner', width)
  const logits = parameters.activation('router logits', numExperts)
  const ofExperts = parameters.activation('of experts', hiddenSize)
  const route: RouteOptions = {
    scores: 'softmax',
    bias: null,
    groups: null,
    normalizes: true,
    scale: 1,
    expertScales: await parameters.vector(`${base}router.per_expert_scale`, [numExperts]),
  }
  return {
    record(backend, hidden, branch, scale) {
      backend.linear(inner, hidden, weights.gateUp, { norm: weights.norm, glu: GLU })
      backend.linear(branch, inner, weights.down, {})
      backend.rmsNorm(branch, branch, weights.denseOutputNorm)
      backend.linear(logits, hidden, weights.router, { norm: weights.routerNorm })
      backend.route(routing, logits, route)
      const options = { glu: GLU, residual: false, norm: weights.expertNorm } as const
      backend.experts(ofExperts, hidden, weights.experts, routing, options)
      backend.normAdd(branch, ofExperts, weights.expertOutputNorm)
      backend.normAdd(hidden, branch, weights.outputNorm, scale)
    },
  }
}
