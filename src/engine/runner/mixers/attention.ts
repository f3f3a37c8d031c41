/** Attention over the paged K and V of a sequence. */
import type { Backend } from '../../../kernels/backend.ts'
import type { AttentionOptions, QkvOptions } from '../../../kernels/attention-options.ts'
import type { Activation, KvShape, Matrix, Norm, Vector } from '../../../kernels/ops.ts'
import { expectTensor, type WeightSource } from '../../weights/source.ts'
import { expectLinear, type Part } from '../parameters.ts'
import type { DecoderSpec } from '../spec.ts'
import type { Mixer, MixerParts, MixerPlace } from './mixer.ts'

export interface AttentionSpec extends KvShape {
  readonly kind: 'attention'
  /** Index into DecoderSpec.ropes; null: no rotary embedding in this layer. */
  readonly rope: number | null
  /** Sliding window in tokens; null: the whole context. */
  readonly window: number | null
  /** The output is multiplied by the sigmoid of a gate, whose rows stand behind each head's query in q_proj. */
  readonly isGated: boolean
  /** Each head attends to a logit of its own beside the tokens. */
  readonly hasSinks: boolean
  /** The layer whose K and V it attends to, having none of its own; null: it has. */
  readonly sharesWith: number | null
  /** Heads of v are divided by their root mean square. */
  readonly hasVNorm: boolean
  /** What is projected to k is v too: there is no v_proj. */
  readonly isValueKey: boolean
}

interface Weights {
  readonly qkv: Matrix // [(numHeads + 2 numKvHeads) headDim, hidden]; q alone where the layer shares another's K and V
  readonly qkvBias: Vector | undefined
  /** Of the output. */
  readonly gate: Matrix | null // [numHeads headDim, hidden]
  readonly output: Matrix // [hidden, numHeads headDim]
  readonly outputBias: Vector | undefined
}

interface Buffers {
  readonly qkv: Activation
  readonly q: Activation
  readonly attended: Activation
  readonly gate: Activation | null
}

class Attention implements Mixer {
  readonly #backend: Backend
  readonly #weights: Weights
  readonly #buffers: Buffers
  readonly #qkvOptions: QkvOptions
  readonly #options: AttentionOptions

  constructor(backend: Backend, weights: Weights, buffers: Buffers, qkvOptions: QkvOptions, options: AttentionOptions) {
    this.#backend = backend
    this.#weights = weights
    this.#buffers = buffers
    this.#qkvOptions = qkvOptions
    this.#options = options
  }

  record(hidden: Activation, norm: Norm | undefined, out: Activation): void {
    const backend = this.#backend
    const { qkv, q, attended, gate } = this.#buffers
    const weights = this.#weights
    backend.linear(qkv, hidden, weights.qkv, { norm, bias: weights.qkvBias })
    backend.qkvRopeStore(q, qkv, this.#qkvOptions)
    backend.attention(attended, q, this.#options)
    if (gate !== null && weights.gate !== null) {
      backend.linear(gate, hidden, weights.gate, { norm })
      backend.sigmoidGate(attended, gate)
    }
    backend.linear(out, attended, weights.output, { bias: weights.outputBias, residual: out === hidden })
  }
}

const SINKS = 'self_attn.sinks'

/** Checks the tensors. Throws ModelError. */
export function expectAttention(source: WeightSource, spec: DecoderSpec, attention: AttentionSpec, base: string): void {
  const { hiddenSize, numHeads, names } = spec
  const { headDim } = attention
  expectLinear(source, qkvParts(spec, attention, base), hiddenSize, spec.hasQkvBias)
  expectLinear(source, [[`${base}${names.output}`, hiddenSize]], numHeads * headDim, spec.hasOutputBias)
  if (attention.hasSinks) expectTensor(source, `${base}${SINKS}`, [numHeads])
}

/** Loads q, k, v and output projections and the norms of q and k. @throws ModelError */
export async function loadAttention(
  { backend, parameters, spec, ropes }: MixerParts,
  attention: AttentionSpec,
  { base, memory }: MixerPlace,
): Promise<Mixer> {
  const { hiddenSize, numHeads, names, qkNorm } = spec
  const { numKvHeads, headDim } = attention
  const isQueryOnly = attention.sharesWith !== null
  const [qRows, kvRows] = [numHeads * headDim, numKvHeads * headDim]
  const shape = { layer: memory, numHeads, numKvHeads, headDim }
  const qkv = qkvParts(spec, attention, base)
  const output = [[`${base}${names.output}`, hiddenSize]] as const
  const rope = attention.rope === null ? null : (ropes[attention.rope] ?? null)
  // Of a layer without keys of its own there is no norm of them; the one of its queries stands in.
  const kNorm = isQueryOnly ? names.qNorm : names.kNorm
  const qkvOptions: QkvOptions = {
    ...shape,
    rope,
    isQueryOnly,
    vNorm: attention.hasVNorm ? { eps: spec.normEps } : null,
    qkNorm:
      qkNorm === 'none'
        ? null
        : {
            kind: qkNorm,
            q: await parameters.norm(`${base}${names.qNorm}`, qkNorm === 'full' ? qRows : headDim),
            k: await parameters.norm(`${base}${kNorm}`, qkNorm === 'full' ? kvRows : headDim),
          },
  }
  const weights = {
    qkv: await parameters.matrix(qkv, hiddenSize),
    qkvBias: await parameters.bias(spec.hasQkvBias, qkv),
    gate: attention.isGated ? await parameters.matrix([gatePart(spec, headDim, base)], hiddenSize) : null,
    output: await parameters.matrix(output, qRows),
    outputBias: await parameters.bias(spec.hasOutputBias, output),
  }
  const buffers = {
    qkv: parameters.activation('qkv', qRows + (isQueryOnly ? 0 : 2 * kvRows)),
    q: parameters.activation('q', qRows),
    attended: parameters.activation('attended', qRows),
    gate: attention.isGated ? parameters.activation('attention gate', qRows) : null,
  }
  const { attentionScale: scale, attentionSoftcap: softcap } = spec
  const sinks = attention.hasSinks ? await parameters.vector(`${base}${SINKS}`, numHeads) : null
  const options = { ...shape, scale, window: attention.window, softcap, sinks, bidirectional: spec.isBidirectional }
  return new Attention(backend, weights, buffers, qkvOptions, options)
}

function qkvParts(spec: DecoderSpec, attention: AttentionSpec, base: string): readonly Part[] {
  const { numHeads, names, ropes, rotatesNeighbours } = spec
  const { numKvHeads, headDim, isGated, isValueKey, sharesWith } = attention
  const [qRows, kvRows] = [numHeads * headDim, numKvHeads * headDim]
  const [first, k, v] = names.qkv
  if (sharesWith !== null) return [[`${base}${first}`, qRows]]
  if (k === undefined || v === undefined) return [[`${base}${first}`, qRows + 2 * kvRows]]
  const rotaryDim = 2 * (ropes[0]?.inverseFrequencies.length ?? 0)
  const from = rotatesNeighbours ? (row: number) => apart(row, headDim, rotaryDim) : undefined
  return [
    isGated ? queryPart(spec, headDim, base) : [`${base}${first}`, qRows, from],
    [`${base}${k}`, kvRows, from],
    [`${base}${isValueKey ? k : v}`, kvRows],
  ]
}

/** q_proj of a gated layer has, head by head, the query's rows and the gate's. */
function queryPart({ names, numHeads }: DecoderSpec, headDim: number, base: string): Part {
  const rows = numHeads * headDim
  return [`${base}${names.qkv[0]}`, rows, (row) => row + Math.floor(row / headDim) * headDim, 2 * rows]
}

function gatePart({ names, numHeads }: DecoderSpec, headDim: number, base: string): Part {
  const rows = numHeads * headDim
  return [`${base}${names.qkv[0]}`, rows, (row) => row + (Math.floor(row / headDim) + 1) * headDim, 2 * rows]
}

/** Rotations here turn dim i with dim i + rotaryDim / 2 of a head: where the rows of neighbours are that stand so. */
function apart(row: number, headDim: number, rotaryDim: number): number {
  const dim = row % headDim
  if (dim >= rotaryDim) return row
  const half = rotaryDim / 2
  return row - dim + 2 * (dim % half) + Math.floor(dim / half)
}
