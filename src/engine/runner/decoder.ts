/** The forward pass, written once against the op vocabulary: weights of any family of `families.ts` in, a step's ops out. */
import type {
  Activation,
  Backend,
  KvLayout,
  LogitsOptions,
  Matrix,
  Norm,
  OpSequence,
  RopeTable,
  SampleRow,
  ScoreRow,
  Vector,
} from '../../kernels/ops.ts'
import { unpackedLoader, type WeightLoader } from '../weights/packed-cache.ts'
import type { WeightSource } from '../weights/source.ts'
import { expectMlp, loadMlp, type Mlp } from './mlp.ts'
import { expectLinear, Parameters, type Part } from './parameters.ts'
import type { DecoderSpec, LayerSpec } from './spec.ts'

interface Layer {
  readonly spec: LayerSpec
  readonly rope: RopeTable | null
  readonly inputNorm: Norm | undefined
  readonly qkv: Matrix // [(numHeads + 2 numKvHeads) headDim, hidden]
  readonly qkvBias: Vector | undefined
  readonly qkNorm: { readonly kind: 'head' | 'full'; readonly q: Norm; readonly k: Norm } | null
  readonly output: Matrix // [hidden, numHeads headDim]
  readonly outputBias: Vector | undefined
  readonly attentionNorm: Norm | null // of the attention's output
  readonly mlp: Mlp
}

export class Decoder {
  readonly #backend: Backend
  readonly #spec: DecoderSpec
  readonly #layers: readonly Layer[]
  readonly #embedding: Matrix
  readonly #head: Matrix
  readonly #logits: LogitsOptions
  readonly #hidden: Activation // the residual stream [rows, hidden]
  readonly #branch: Activation // a block's output where it is normalised before it is added [rows, hidden]
  readonly #qkv: Activation
  readonly #q: Activation
  readonly #attended: Activation
  readonly #layerOps: OpSequence

  constructor(
    backend: Backend,
    spec: DecoderSpec,
    weights: { embedding: Matrix; head: Matrix; norm: Norm; layers: readonly Layer[] },
  ) {
    const { hiddenSize, numHeads, numKvHeads, headDim } = spec
    this.#backend = backend
    this.#spec = spec
    this.#layers = weights.layers
    this.#embedding = weights.embedding
    this.#head = weights.head
    this.#logits = { norm: weights.norm, softcap: spec.logitSoftcap, scale: spec.logitScale }
    this.#hidden = backend.createActivation('hidden', hiddenSize)
    this.#branch = spec.normPlacement === 'pre' ? this.#hidden : backend.createActivation('branch', hiddenSize)
    this.#qkv = backend.createActivation('qkv', (numHeads + 2 * numKvHeads) * headDim)
    this.#q = backend.createActivation('q', numHeads * headDim)
    this.#attended = backend.createActivation('attended', numHeads * headDim)
    const head = { x: this.#hidden, head: this.#head, options: this.#logits }
    this.#layerOps = backend.record('layers', () => this.#recordLayers(), head)
  }

  /** Issues the ops of a step, between the backend's beginStep and endStep. */
  forward(samples: readonly SampleRow[], scores: readonly ScoreRow[]): void {
    const backend = this.#backend
    backend.run(this.#layerOps)
    if (samples.length > 0) backend.sample(this.#hidden, this.#head, this.#logits, samples)
    if (scores.length > 0) backend.score(this.#hidden, this.#head, this.#logits, scores)
  }

  /** The same in every step: six ops a layer, eight where block outputs are normalised. */
  #recordLayers(): void {
    const backend = this.#backend
    const {
      numHeads,
      numKvHeads,
      headDim,
      attentionScale: scale,
      attentionSoftcap: softcap,
      embeddingScale,
    } = this.#spec
    const hidden = this.#hidden
    const branch = this.#branch
    backend.embed(hidden, this.#embedding, embeddingScale)
    for (const [index, layer] of this.#layers.entries()) {
      const shape = { layer: index, numHeads, numKvHeads, headDim }
      backend.linear(this.#qkv, hidden, layer.qkv, { norm: layer.inputNorm, bias: layer.qkvBias })
      backend.qkvRopeStore(this.#q, this.#qkv, { ...shape, qkNorm: layer.qkNorm, rope: layer.rope })
      backend.attention(this.#attended, this.#q, { ...shape, scale, window: layer.spec.mixer.window, softcap })
      backend.linear(branch, this.#attended, layer.output, {
        bias: layer.outputBias,
        residual: layer.attentionNorm === null,
      })
      if (layer.attentionNorm !== null) backend.normAdd(hidden, branch, layer.attentionNorm)
      layer.mlp.record(hidden, branch)
    }
  }
}

/** The KV pool's shape for `numBlocks` blocks. */
export function kvLayout(spec: DecoderSpec, numBlocks: number, blockSize: number): KvLayout {
  return { numLayers: spec.layers.length, numBlocks, blockSize, numKvHeads: spec.numKvHeads, headDim: spec.headDim }
}

/** Where the decoder's tensors are: models with a vision part keep the text part deeper. */
const PREFIXES = ['model.', 'model.language_model.', 'language_model.model.'] as const

/**
 * Reads every weight, one tensor at a time, into the backend; q, k, v and gate, up are joined to one matrix each. `weights`: where
 * they are packed already. Throws ModelError for a missing or misshapen tensor before anything is read, so that a broken checkpoint fails at once.
 */
export async function loadDecoder(
  backend: Backend,
  spec: DecoderSpec,
  source: WeightSource,
  weights: WeightLoader = unpackedLoader(backend, source),
): Promise<Decoder> {
  const prefix = PREFIXES.find((candidate) => source.tensors.has(`${candidate}embed_tokens.weight`)) ?? PREFIXES[0]
  checkTensors(spec, source, prefix)
  const { hiddenSize, vocabSize, numHeads, numKvHeads, headDim } = spec
  const qRows = numHeads * headDim
  const kvRows = numKvHeads * headDim
  const norms = { eps: spec.normEps, addsOne: spec.normAddsOne }
  const parameters = new Parameters(backend, source, weights, norms)

  const embedding = await parameters.matrix([[`${prefix}embed_tokens`, vocabSize]], hiddenSize)
  const ropes = spec.ropes.map((rope, i) =>
    backend.loadRope(`rope.${i}`, rope.inverseFrequencies, rope.attentionFactor),
  )
  const layers: Layer[] = []
  for (const [index, layer] of spec.layers.entries()) {
    const base = `${prefix}layers.${index}.`
    const { normPlacement, qkNorm, names } = spec
    const attention = `${base}self_attn.`
    const qkvParts = qkvPartsOf(spec, base)
    const outputParts = [[`${base}${names.output}`, hiddenSize]] as const
    layers.push({
      spec: layer,
      rope: layer.mixer.rope === null ? null : (ropes[layer.mixer.rope] ?? null),
      inputNorm: normPlacement === 'post' ? undefined : await parameters.norm(`${base}input_layernorm`, hiddenSize),
      qkv: await parameters.matrix(qkvParts, hiddenSize),
      qkvBias: await parameters.bias(spec.hasQkvBias, qkvParts),
      qkNorm:
        qkNorm === 'none'
          ? null
          : {
              kind: qkNorm,
              q: await parameters.norm(`${attention}q_norm`, qkNorm === 'head' ? headDim : qRows),
              k: await parameters.norm(`${attention}k_norm`, qkNorm === 'head' ? headDim : kvRows),
            },
      output: await parameters.matrix(outputParts, qRows),
      outputBias: await parameters.bias(spec.hasOutputBias, outputParts),
      attentionNorm:
        normPlacement === 'pre' ? null : await parameters.norm(`${base}${names.attentionNorm}`, hiddenSize),
      mlp: await loadMlp(backend, parameters, spec, layer.mlp, base),
    })
  }
  const finalNorm = await parameters.norm(`${prefix}norm`, hiddenSize)
  const head = spec.tiesEmbeddings
    ? embedding
    : await parameters.matrix([[headName(source, prefix), vocabSize]], hiddenSize)
  return new Decoder(backend, spec, { embedding, head, norm: finalNorm, layers })
}

function qkvPartsOf(spec: DecoderSpec, base: string): readonly Part[] {
  const { numHeads, numKvHeads, headDim, names, ropes, rotatesNeighbours } = spec
  const [qRows, kvRows] = [numHeads * headDim, numKvHeads * headDim]
  const [first, k, v] = names.qkv
  if (k === undefined || v === undefined) return [[`${base}${first}`, qRows + 2 * kvRows]]
  const rotaryDim = 2 * (ropes[0]?.inverseFrequencies.length ?? 0)
  const from = rotatesNeighbours ? (row: number) => apart(row, headDim, rotaryDim) : undefined
  return [
    [`${base}${first}`, qRows, from],
    [`${base}${k}`, kvRows, from],
    [`${base}${v}`, kvRows],
  ]
}

/** Rotations here turn dim i with dim i + rotaryDim / 2 of a head: where the rows of neighbours are that stand so. */
function apart(row: number, headDim: number, rotaryDim: number): number {
  const dim = row % headDim
  if (dim >= rotaryDim) return row
  const half = rotaryDim / 2
  return row - dim + 2 * (dim % half) + Math.floor(dim / half)
}

function headName(source: WeightSource, prefix: string): string {
  const nested = `${prefix.replace(/model\.$/, '')}lm_head`
  return source.tensors.has(`${nested}.weight`) ? nested : 'lm_head'
}

/** Checks name and shape of every tensor the spec asks for. */
function checkTensors(spec: DecoderSpec, source: WeightSource, prefix: string): void {
  const { hiddenSize, vocabSize, numHeads, headDim, names } = spec
  expectLinear(source, [[`${prefix}embed_tokens`, vocabSize]], hiddenSize, false)
  for (const [index, { mlp }] of spec.layers.entries()) {
    const base = `${prefix}layers.${index}.`
    expectLinear(source, qkvPartsOf(spec, base), hiddenSize, spec.hasQkvBias)
    expectLinear(source, [[`${base}${names.output}`, hiddenSize]], numHeads * headDim, spec.hasOutputBias)
    expectMlp(source, spec, mlp, base)
  }
  if (!spec.tiesEmbeddings) expectLinear(source, [[headName(source, prefix), vocabSize]], hiddenSize, false)
}
