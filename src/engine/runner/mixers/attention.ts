/** Attention over the paged K and V of a sequence. */
import type { QkvOptions } from '../../../kernels/attention-options.ts'
import type { AttentionSpec, DecoderSpec } from '../decoder-spec.ts'
import type { LayerParts, Mixer, MixerPlace } from '../layer-parts.ts'
import type { Part } from '../parameters.ts'

/** Loads q, k, v and output projections and the norms of q and k. @throws ModelError */
export async function loadAttention(
  { parameters, spec, ropes }: LayerParts,
  attention: AttentionSpec,
  { base, memory }: MixerPlace,
): Promise<Mixer> {
  const { hiddenSize, numHeads, names, qkNorm } = spec
  const { numKvHeads, headDim, isGated } = attention
  const isQueryOnly = attention.sharesWith !== null
  const [qRows, kvRows] = [numHeads * headDim, numKvHeads * headDim]
  const shape = { layer: memory, numHeads, numKvHeads, headDim }
  const qkvParts = qkvPartsOf(spec, attention, base)
  const outputParts = [[`${base}${names.output}`, hiddenSize]] as const
  const rope = attention.rope === null ? null : (ropes[attention.rope] ?? null)
  // A layer without keys of its own has no norm for them either: the norm of its queries fills the field.
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
    // [(numHeads + 2 numKvHeads) headDim, hidden]; only q where the layer reads another layer's K and V
    qkv: await parameters.matrix(qkvParts, hiddenSize),
    qkvBias: await parameters.bias(spec.hasQkvBias, qkvParts),
    gate: isGated ? await parameters.matrix([gatePart(spec, headDim, base)], hiddenSize) : null, // [numHeads headDim, hidden]
    output: await parameters.matrix(outputParts, qRows), // [hidden, numHeads headDim]
    outputBias: await parameters.bias(spec.hasOutputBias, outputParts),
  }
  const qkv = parameters.activation('qkv', qRows + (isQueryOnly ? 0 : 2 * kvRows))
  const q = parameters.activation('q', qRows)
  const attended = parameters.activation('attended', qRows)
  const gate = isGated ? parameters.activation('attention gate', qRows) : null
  const { attentionScale: scale, attentionSoftcap: softcap } = spec
  const sinks = attention.hasSinks ? await parameters.vector(`${base}self_attn.sinks`, [numHeads]) : null
  const options = { ...shape, scale, window: attention.window, softcap, sinks, bidirectional: spec.isBidirectional }
  return {
    between: [q],
    recordMemory(backend, hidden, norm) {
      backend.linear(qkv, hidden, weights.qkv, { norm, bias: weights.qkvBias })
      backend.qkvRopeStore(q, qkv, qkvOptions)
    },
    recordOutput(backend, hidden, norm, out) {
      backend.attention(attended, q, options)
      if (gate !== null && weights.gate !== null) {
        backend.linear(gate, hidden, weights.gate, { norm })
        backend.sigmoidGate(attended, gate)
      }
      backend.linear(out, attended, weights.output, { bias: weights.outputBias, residual: out === hidden })
    },
  }
}

function qkvPartsOf(spec: DecoderSpec, attention: AttentionSpec, base: string): readonly Part[] {
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

/** The q_proj of a gated layer holds, for each head in turn, the query's rows and then the gate's. */
function queryPart({ names, numHeads }: DecoderSpec, headDim: number, base: string): Part {
  const rows = numHeads * headDim
  return [`${base}${names.qkv[0]}`, rows, (row) => row + Math.floor(row / headDim) * headDim, 2 * rows]
}

function gatePart({ names, numHeads }: DecoderSpec, headDim: number, base: string): Part {
  const rows = numHeads * headDim
  return [`${base}${names.qkv[0]}`, rows, (row) => row + (Math.floor(row / headDim) + 1) * headDim, 2 * rows]
}

/** The stored row for each row of q or k: kernels rotate dim i with dim i + rotaryDim / 2 of a head, these checkpoints neighbouring dims. */
function apart(row: number, headDim: number, rotaryDim: number): number {
  const dim = row % headDim
  if (dim >= rotaryDim) return row
  const half = rotaryDim / 2
  return row - dim + 2 * (dim % half) + Math.floor(dim / half)
}
