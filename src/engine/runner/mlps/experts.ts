/** A mixture of experts: every row goes through a few of many MLPs, and through a shared one where the model has it. */
import type { WeightSource } from '../../weights/source.ts'
import type { ExpertsSpec } from '../decoder-spec.ts'
import type { LayerParts, Mlp } from '../layer-parts.ts'
import { type ExpertPart, expertTensor, type Part } from '../parameters.ts'
import { upParts } from './dense.ts'

/** Where an expert's gate and up rows are stored: in two tensors, or in one, gate rows first or alternating with up rows. */
function gateUpParts(source: WeightSource, base: string, { names, width }: ExpertsSpec): readonly ExpertPart[] {
  const fused = `${base}${names.fusedGateUp}`
  if (expertTensor(source, { name: fused, rows: 0 }) !== null) {
    const from = names.alternates ? (row: number) => 2 * (row % width) + Math.floor(row / width) : undefined
    return [{ name: fused, rows: 2 * width, from, transposes: names.transposes }]
  }
  return names.gateUp.map((name) => ({ name: `${base}${name}`, rows: (2 * width) / names.gateUp.length }))
}

/** Loads router, experts, the shared expert and the norms around them. @throws ModelError */
export async function loadExperts(parts: LayerParts, mlp: ExpertsSpec, base: string): Promise<Mlp> {
  const { parameters, spec } = parts
  const { hiddenSize, names: layerNames, normPlacement } = spec
  const { names, numExperts, topK, width, glu, hasBias } = mlp
  const routerParts: readonly Part[] = [[`${base}${names.router}`, numExperts]]
  const gateUp = gateUpParts(parameters.source, base, mlp)
  const down: readonly ExpertPart[] = [{ name: `${base}${names.down}`, rows: hiddenSize, transposes: names.transposes }]
  // Created before the experts are loaded: each memory of the cpu backend keeps room for the routings that exist by then.
  const routing = parameters.routing({ numExperts, topK, inner: width, outer: hiddenSize })
  const norm = normPlacement === 'post' ? undefined : await parameters.norm(`${base}${layerNames.mlpNorm}`, hiddenSize)
  const router = await parameters.matrix(routerParts, hiddenSize) // [numExperts, hidden]
  const routerBias = await parameters.bias(hasBias, routerParts)
  const experts = {
    gateUp: await parameters.experts(gateUp, numExperts, hiddenSize, { glu: true }),
    down: await parameters.experts(down, numExperts, width),
    ...(hasBias
      ? {
          gateUpBias: await parameters.expertBias(gateUp, numExperts),
          downBias: await parameters.expertBias(down, numExperts),
        }
      : {}),
  }
  const shared = mlp.sharedWidth === null ? null : await loadShared(parts, mlp, mlp.sharedWidth, base)
  const outputNorm =
    normPlacement === 'pre' ? null : await parameters.norm(`${base}${layerNames.feedForwardNorm}`, hiddenSize)
  const bias = mlp.hasChoiceBias ? await parameters.vector(`${base}${names.choiceBias}`, [numExperts]) : null
  const route = { ...mlp.route, bias }
  const logits = parameters.activation('router logits', numExperts)
  return {
    record(backend, hidden, branch, scale) {
      backend.linear(logits, hidden, router, { norm, bias: routerBias })
      backend.route(routing, logits, route)
      // What reads `hidden` comes before what adds to it.
      if (shared !== null) {
        backend.linear(shared.inner, hidden, shared.gateUp, { norm, glu })
        if (shared.gate !== null) {
          backend.linear(shared.gate.logit, hidden, shared.gate.weight, { norm })
          backend.sigmoidGate(shared.inner, shared.gate.logit)
        }
      }
      const residual = branch === hidden
      backend.experts(branch, hidden, experts, routing, { glu, residual, ...(norm === undefined ? {} : { norm }) })
      if (shared !== null) backend.linear(branch, shared.inner, shared.down, { residual: true })
      if (outputNorm !== null) backend.normAdd(hidden, branch, outputNorm, scale)
    },
  }
}

async function loadShared(
  { parameters, spec: { hiddenSize } }: LayerParts,
  { names, gatesShared }: ExpertsSpec,
  width: number,
  base: string,
) {
  const gateUp = upParts(names.sharedGateUp, base, { width, isGated: true })
  return {
    inner: parameters.activation('inner', width),
    gateUp: await parameters.matrix(gateUp, hiddenSize, { glu: true }), // [2 width, hidden]
    down: await parameters.matrix([[`${base}${names.sharedDown}`, hiddenSize]], width), // [hidden, width]
    gate: gatesShared
      ? {
          logit: parameters.activation('shared gate', 1),
          weight: await parameters.matrix([[`${base}${names.sharedGate}`, 1]], hiddenSize), // [1, hidden]
        }
      : null,
  }
}
