/** A mixture of experts: every row goes to a few of many MLPs, and through a shared one where there is one. */
import type { Backend } from '../../../kernels/backend.ts'
import type {
  Activation,
  ExpertWeights,
  Glu,
  Matrix,
  Norm,
  RouteOptions,
  Routing,
  Vector,
} from '../../../kernels/ops.ts'
import { expectTensor, expectValues, type WeightSource } from '../../weights/source.ts'
import type { ExpertNames } from '../expert-families.ts'
import { expectLinear, type ExpertPart, expertTensor, type Part } from '../parameters.ts'
import type { DecoderSpec } from '../spec.ts'
import { upParts } from './dense.ts'
import type { Mlp, MlpParts } from './mlp.ts'

export interface ExpertsSpec {
  readonly kind: 'experts'
  readonly numExperts: number
  /** Experts of a row. */
  readonly topK: number
  /** Of an expert's inner activations. */
  readonly width: number
  readonly glu: Glu
  /** Router and experts have biases. */
  readonly hasBias: boolean
  readonly route: Omit<RouteOptions, 'bias'>
  /** There is a bias that experts are chosen by. */
  readonly hasChoiceBias: boolean
  /** Width of the expert that all rows go through; null: there is none. */
  readonly sharedWidth: number | null
  /** It is multiplied by the sigmoid of a gate. */
  readonly gatesShared: boolean
  readonly names: ExpertNames
}

interface Shared {
  readonly inner: Activation // [rows, width]
  readonly gateUp: Matrix
  readonly down: Matrix
  readonly gate: { readonly logit: Activation; readonly weight: Matrix } | null // [rows, 1], [1, hidden]
}

interface Weights {
  readonly norm: Norm | undefined
  readonly router: Matrix // [numExperts, hidden]
  readonly routerBias: Vector | undefined
  readonly experts: ExpertWeights
  readonly shared: Shared | null
  readonly outputNorm: Norm | null
}

class Experts implements Mlp {
  readonly #backend: Backend
  readonly #glu: Glu
  readonly #logits: Activation // [rows, numExperts]
  readonly #routing: Routing
  readonly #route: RouteOptions
  readonly #weights: Weights

  constructor(backend: Backend, glu: Glu, logits: Activation, routing: Routing, route: RouteOptions, weights: Weights) {
    this.#backend = backend
    this.#glu = glu
    this.#logits = logits
    this.#routing = routing
    this.#route = route
    this.#weights = weights
  }

  record(hidden: Activation, branch: Activation, scale: number): void {
    const backend = this.#backend
    const { norm, router, routerBias, experts, shared, outputNorm } = this.#weights
    const glu = this.#glu
    backend.linear(this.#logits, hidden, router, { norm, bias: routerBias })
    backend.route(this.#routing, this.#logits, this.#route)
    // What reads `hidden` comes before what adds to it.
    if (shared !== null) {
      backend.linear(shared.inner, hidden, shared.gateUp, { norm, glu })
      if (shared.gate !== null) {
        backend.linear(shared.gate.logit, hidden, shared.gate.weight, { norm })
        backend.sigmoidGate(shared.inner, shared.gate.logit)
      }
    }
    const residual = branch === hidden
    backend.experts(branch, hidden, experts, this.#routing, { glu, residual, ...(norm === undefined ? {} : { norm }) })
    if (shared !== null) backend.linear(branch, shared.inner, shared.down, { residual: true })
    if (outputNorm !== null) backend.normAdd(hidden, branch, outputNorm, scale)
  }
}

/** Rows that gate and up projection of an expert have in the checkpoint: apart, or in one tensor, one below the other or in turn. */
function gateUpParts(source: WeightSource, base: string, { names, width }: ExpertsSpec): readonly ExpertPart[] {
  const fused = `${base}${names.fusedGateUp}`
  if (expertTensor(source, { name: fused, rows: 0 }) !== null) {
    const from = names.alternates ? (row: number) => 2 * (row % width) + Math.floor(row / width) : undefined
    return [{ name: fused, rows: 2 * width, from, transposes: names.transposes }]
  }
  return names.gateUp.map((name) => ({ name: `${base}${name}`, rows: (2 * width) / names.gateUp.length }))
}

function downPart({ names }: ExpertsSpec, base: string, rows: number): ExpertPart {
  return { name: `${base}${names.down}`, rows, transposes: names.transposes }
}

const sharedSpec = (width: number) => ({ width, isGated: true })

/** Checks the tensors. Throws ModelError. */
export function expectExperts(source: WeightSource, spec: DecoderSpec, mlp: ExpertsSpec, base: string): void {
  const { hiddenSize } = spec
  const { names, numExperts, sharedWidth, width, hasBias } = mlp
  expectLinear(source, [[`${base}${names.router}`, numExperts]], hiddenSize, hasBias)
  if (mlp.hasChoiceBias) expectValues(source, `${base}${names.choiceBias}`, numExperts)
  const parts = gateUpParts(source, base, mlp).map((part): [ExpertPart, number] => [part, hiddenSize])
  parts.push([downPart(mlp, base, hiddenSize), width])
  for (const [part, cols] of parts) {
    const found = expertTensor(source, part)
    // A stacked tensor has all experts; else each has its own, of which the first is named where it is missing.
    if (found === null) expectTensor(source, `${part.name.replace('*', '0')}.weight`, [part.rows, cols])
    else if (found.isStacked)
      expectTensor(
        source,
        found.name,
        found.isTransposed ? [numExperts, cols, part.rows] : [numExperts, part.rows, cols],
      )
    else {
      for (let expert = 0; expert < numExperts; expert++)
        expectTensor(source, `${part.name.replace('*', String(expert))}.weight`, [part.rows, cols])
    }
  }
  if (sharedWidth === null) return
  expectLinear(source, upParts(names.sharedGateUp, base, sharedSpec(sharedWidth)), hiddenSize, false)
  expectLinear(source, [[`${base}${names.sharedDown}`, hiddenSize]], sharedWidth, false)
  if (mlp.gatesShared) expectLinear(source, [[`${base}${names.sharedGate}`, 1]], hiddenSize, false)
}

/** Loads router, experts and the shared expert. */
export async function loadExperts(
  { backend, parameters, spec }: MlpParts,
  mlp: ExpertsSpec,
  base: string,
): Promise<Mlp> {
  const { hiddenSize, names: layerNames, normPlacement } = spec
  const { names, numExperts, topK, width, glu, hasBias, sharedWidth } = mlp
  const source = parameters.source
  const router: readonly Part[] = [[`${base}${names.router}`, numExperts]]
  const gateUp = gateUpParts(source, base, mlp)
  const down = [downPart(mlp, base, hiddenSize)]
  // Before the experts: memories keep room for the routings they know of.
  const routing = parameters.routing({ numExperts, topK, inner: width, outer: hiddenSize })
  const weights: Weights = {
    norm: normPlacement === 'post' ? undefined : await parameters.norm(`${base}${layerNames.mlpNorm}`, hiddenSize),
    router: await parameters.matrix(router, hiddenSize),
    routerBias: await parameters.bias(hasBias, router),
    experts: {
      gateUp: await parameters.experts(gateUp, numExperts, hiddenSize, { glu: true }),
      down: await parameters.experts(down, numExperts, width),
      ...(hasBias
        ? {
            gateUpBias: await parameters.expertBias(gateUp, numExperts),
            downBias: await parameters.expertBias(down, numExperts),
          }
        : {}),
    },
    shared:
      sharedWidth === null
        ? null
        : {
            inner: parameters.activation('inner', sharedWidth),
            gateUp: await parameters.matrix(upParts(names.sharedGateUp, base, sharedSpec(sharedWidth)), hiddenSize, {
              glu: true,
            }),
            down: await parameters.matrix([[`${base}${names.sharedDown}`, hiddenSize]], sharedWidth),
            gate: mlp.gatesShared
              ? {
                  logit: parameters.activation('shared gate', 1),
                  weight: await parameters.matrix([[`${base}${names.sharedGate}`, 1]], hiddenSize),
                }
              : null,
          },
    outputNorm:
      normPlacement === 'pre' ? null : await parameters.norm(`${base}${layerNames.feedForwardNorm}`, hiddenSize),
  }
  const bias = mlp.hasChoiceBias ? await parameters.vector(`${base}${names.choiceBias}`, numExperts) : null
  const logits = parameters.activation('router logits', numExperts)
  return new Experts(backend, glu, logits, routing, { ...mlp.route, bias }, weights)
}
