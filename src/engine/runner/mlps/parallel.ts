/** A dense MLP and a mixture of experts side by side, each with norms of its own (Gemma 4's 26B). */
import type { Backend } from '../../../kernels/backend.ts'
import type { Activation, ExpertWeights, Matrix, Norm, RouteOptions, Routing } from '../../../kernels/ops.ts'
import { expectTensor, expectValues, type WeightSource } from '../../weights/source.ts'
import { expectLinear, type ExpertPart, expertTensor } from '../parameters.ts'
import type { DecoderSpec } from '../spec.ts'
import { upParts } from './dense.ts'
import type { Mlp, MlpParts } from './mlp.ts'

/** x += norm(norm_1(mlp(x)) + norm_2(experts(x))) */
export interface ParallelMlpSpec {
  readonly kind: 'parallel'
  /** Of the dense MLP's inner activations. */
  readonly width: number
  readonly numExperts: number
  readonly topK: number
  readonly expertWidth: number
}

const NAMES = {
  router: 'router.proj',
  routerScale: 'router.scale',
  expertScales: 'router.per_expert_scale',
  gateUp: 'experts.gate_up_proj',
  down: 'experts.down_proj',
  expertNorm: 'pre_feedforward_layernorm_2',
  denseOutputNorm: 'post_feedforward_layernorm_1',
  expertOutputNorm: 'post_feedforward_layernorm_2',
} as const

const GLU = 'gelu_tanh'

interface Weights {
  readonly norm: Norm
  readonly gateUp: Matrix // [2 width, hidden]
  readonly down: Matrix // [hidden, width]
  readonly denseOutputNorm: Norm
  readonly routerNorm: Norm
  readonly router: Matrix // [numExperts, hidden]
  readonly expertNorm: Norm
  readonly experts: ExpertWeights
  readonly expertOutputNorm: Norm
  readonly outputNorm: Norm
}

interface Buffers {
  readonly inner: Activation // [rows, width]
  readonly logits: Activation // [rows, numExperts]
  readonly ofExperts: Activation // [rows, hidden]
  readonly routing: Routing
}

class ParallelMlp implements Mlp {
  readonly #backend: Backend
  readonly #weights: Weights
  readonly #buffers: Buffers
  readonly #route: RouteOptions

  constructor(backend: Backend, weights: Weights, buffers: Buffers, route: RouteOptions) {
    this.#backend = backend
    this.#weights = weights
    this.#buffers = buffers
    this.#route = route
  }

  record(hidden: Activation, branch: Activation, scale: number): void {
    const backend = this.#backend
    const { inner, logits, ofExperts, routing } = this.#buffers
    const weights = this.#weights
    backend.linear(inner, hidden, weights.gateUp, { norm: weights.norm, glu: GLU })
    backend.linear(branch, inner, weights.down, {})
    backend.rmsNorm(branch, branch, weights.denseOutputNorm)
    backend.linear(logits, hidden, weights.router, { norm: weights.routerNorm })
    backend.route(routing, logits, this.#route)
    const options = { glu: GLU, residual: false, norm: weights.expertNorm } as const
    backend.experts(ofExperts, hidden, weights.experts, routing, options)
    backend.normAdd(branch, ofExperts, weights.expertOutputNorm)
    backend.normAdd(hidden, branch, weights.outputNorm, scale)
  }
}

function expertParts(mlp: ParallelMlpSpec, hiddenSize: number, base: string): readonly [ExpertPart, ExpertPart] {
  return [
    { name: `${base}${NAMES.gateUp}`, rows: 2 * mlp.expertWidth },
    { name: `${base}${NAMES.down}`, rows: hiddenSize },
  ]
}

/** Checks the tensors. Throws ModelError. */
export function expectParallel(source: WeightSource, spec: DecoderSpec, mlp: ParallelMlpSpec, base: string): void {
  const { hiddenSize, names } = spec
  const { width, numExperts, expertWidth } = mlp
  expectLinear(source, upParts(names.gateUp, base, { width, isGated: true }), hiddenSize, false)
  expectLinear(source, [[`${base}${names.down}`, hiddenSize]], width, false)
  expectLinear(source, [[`${base}${NAMES.router}`, numExperts]], hiddenSize, false)
  expectValues(source, `${base}${NAMES.routerScale}`, hiddenSize)
  expectValues(source, `${base}${NAMES.expertScales}`, numExperts)
  const cols = [hiddenSize, expertWidth]
  for (const [i, part] of expertParts(mlp, hiddenSize, base).entries())
    expectTensor(source, expertTensor(source, part)?.name ?? part.name, [numExperts, part.rows, cols[i]!])
}

/** Loads both parts of layer `base`. */
export async function loadParallel(
  { backend, parameters, spec }: MlpParts,
  mlp: ParallelMlpSpec,
  base: string,
): Promise<Mlp> {
  const { hiddenSize, names, normEps } = spec
  const { width, numExperts, topK, expertWidth } = mlp
  const norm = (name: string) => parameters.norm(`${base}${name}`, hiddenSize)
  const [gateUp, down] = expertParts(mlp, hiddenSize, base)
  // Before the experts: memories keep room for the routings they know of.
  const routing = parameters.routing({ numExperts, topK, inner: expertWidth, outer: hiddenSize })
  const weights: Weights = {
    norm: await norm(names.mlpNorm),
    gateUp: await parameters.matrix(upParts(names.gateUp, base, { width, isGated: true }), hiddenSize, { glu: true }),
    down: await parameters.matrix([[`${base}${names.down}`, hiddenSize]], width),
    denseOutputNorm: await norm(NAMES.denseOutputNorm),
    routerNorm: {
      weight: await parameters.vector(
        `${base}${NAMES.routerScale}`,
        hiddenSize,
        (value) => value / Math.sqrt(hiddenSize),
      ),
      eps: normEps,
    },
    router: await parameters.matrix([[`${base}${NAMES.router}`, numExperts]], hiddenSize),
    expertNorm: await norm(NAMES.expertNorm),
    experts: {
      gateUp: await parameters.experts([gateUp], numExperts, hiddenSize, { glu: true }),
      down: await parameters.experts([down], numExperts, expertWidth),
    },
    expertOutputNorm: await norm(NAMES.expertOutputNorm),
    outputNorm: await norm(names.feedForwardNorm),
  }
  const buffers = {
    inner: parameters.activation('inner', width),
    logits: parameters.activation('router logits', numExperts),
    ofExperts: parameters.activation('of experts', hiddenSize),
    routing,
  }
  return new ParallelMlp(backend, weights, buffers, {
    scores: 'softmax',
    bias: null,
    groups: null,
    normalizes: true,
    scale: 1,
    expertScales: await parameters.vector(`${base}${NAMES.expertScales}`, numExperts),
  })
}
