/** The forward pass of decoder-only models, written once against `Backend` for every family in `families.ts`. */
import type { Backend, OpSequence } from '../../kernels/backend.ts'
import type { Activation, LogitsOptions, Matrix, Norm, Pooling, RopeTable, StepInput } from '../../kernels/ops.ts'
import type { SampleRow, ScoreRow } from '../../kernels/sample-spec.ts'
import { unpackedLoader, type WeightLoader } from '../weights/weight-loader.ts'
import type { TensorInfo, WeightSource } from '../weights/source.ts'
import { AdaptedBackend } from './adapted-backend.ts'
import type { DecoderSpec } from './decoder-spec.ts'
import { LayerInputs } from './layer-inputs.ts'
import { loadMixer, loadMlp } from './layer-kinds.ts'
import type { Mixer, Mlp } from './layer-parts.ts'
import { kvPlaces } from './memory-layout.ts'
import { BackendParameters, type Parameters, type Updates } from './parameters.ts'
import { Streams } from './streams.ts'
import { TensorCheck } from './tensor-check.ts'

interface Layer {
  readonly inputNorm: Norm | undefined
  readonly mixer: Mixer
  /** The norm of the mixer's output before it is added; null: there is none. */
  readonly mixerNorm: Norm | null
  readonly mlp: Mlp
  /** Multiplies the layer's output. */
  readonly scale: number
}

interface DecoderWeights {
  readonly embedding: Matrix // [vocabSize, hidden]
  readonly head: Matrix // [vocabSize, hidden]
  readonly norm: Norm
  readonly layers: readonly Layer[]
  readonly layerInputs: LayerInputs | null
  readonly streams: Streams | null
}

/** The two parts of the layers' ops, which a step runs in this order. */
interface LayerOps {
  readonly memory: OpSequence
  readonly outputs: OpSequence
}

/** A decoder-only model on a backend: records its ops at load and runs them per step. */
export class Decoder {
  readonly #backend: Backend
  readonly #spec: DecoderSpec
  readonly #layers: readonly Layer[]
  /** Index of the last layer that writes K and V or a state. Rows that are neither sampled nor scored need not go further. */
  readonly #lastMemory: number
  readonly #embedding: Matrix
  readonly #head: Matrix
  readonly #logits: LogitsOptions
  readonly #hidden: Activation // the residual stream [rows, hidden]
  readonly #layerInputs: LayerInputs | null
  readonly #streams: Streams | null
  readonly #branch: Activation // a block's output before its norm [rows, hidden]; without such norms #hidden itself
  readonly #ops: LayerOps
  /** The same ops with the update of each row's adapter; null: there are no adapters. */
  readonly #adaptedOps: LayerOps | null

  constructor(backend: Backend, spec: DecoderSpec, weights: DecoderWeights, adapted: AdaptedBackend | null) {
    const { hiddenSize } = spec
    this.#backend = backend
    this.#spec = spec
    this.#layers = weights.layers
    this.#lastMemory = spec.layers.findLastIndex(({ mixer }) => mixer.kind !== 'attention' || mixer.sharesWith === null)
    this.#embedding = weights.embedding
    this.#layerInputs = weights.layerInputs
    this.#streams = weights.streams
    this.#head = weights.head
    this.#logits = { norm: weights.norm, softcap: spec.logitSoftcap, scale: spec.logitScale }
    this.#hidden = backend.createActivation('hidden', hiddenSize)
    this.#branch = spec.normPlacement === 'pre' ? this.#hidden : backend.createActivation('branch', hiddenSize)
    const head = { x: this.#hidden, head: this.#head, options: this.#logits }
    const opsBackend = adapted?.backend ?? backend
    const record = (label: string, addsUpdates: boolean): LayerOps => {
      const during = (ops: () => void) => (adapted === null ? ops : () => adapted.during(addsUpdates, ops))
      const memory = during(() => this.#recordMemory(opsBackend))
      const outputs = during(() => this.#recordOutputs(opsBackend))
      return {
        memory: backend.record(label, memory, null),
        outputs: backend.record(`${label}, outputs`, outputs, head),
      }
    }
    this.#ops = record('layers', false)
    this.#adaptedOps = adapted === null ? null : record('layers with adapters', true)
  }

  /** Issues the layers' ops of a step. To be called between the backend's `beginStep` and `endStep`, before `outputs`. */
  layers({ adapters, outputRows }: Pick<StepInput, 'adapters' | 'outputRows'>): void {
    const ops = adapters === undefined ? this.#ops : this.#adaptedOps
    if (ops === null) throw new Error('the step names adapters, the model has none')
    this.#backend.run(ops.memory)
    if (outputRows?.length !== 0) this.#backend.run(ops.outputs)
  }

  /** Issues the ops that sample and score. The rows are indexes into `StepInput.outputRows`. */
  outputs(samples: readonly SampleRow[], scores: readonly ScoreRow[]): void {
    const backend = this.#backend
    if (samples.length > 0) backend.sample(this.#hidden, this.#head, this.#logits, samples)
    if (scores.length > 0) backend.score(this.#hidden, this.#head, this.#logits, scores)
  }

  /** Replaces `layers` and `outputs` in steps of whole sequences: pools the rows of each after the final norm. */
  pool(pooling: Pooling): void {
    this.layers({})
    this.#backend.rmsNorm(this.#hidden, this.#hidden, this.#logits.norm)
    this.#backend.pool(this.#hidden, pooling)
  }

  /** Records what every row goes through: everything up to the last write of K and V or a state. */
  #recordMemory(backend: Backend): void {
    const embedded = this.#streams?.first ?? this.#hidden
    backend.embed(embedded, this.#embedding, this.#spec.embeddingScale)
    this.#layerInputs?.record(backend, embedded)
    this.#streams?.recordStart(backend)
    for (let index = 0; index < this.#lastMemory; index++) {
      this.#recordMixerMemory(backend, index)
      this.#recordLayerOutput(backend, index)
    }
    this.#recordMixerMemory(backend, this.#lastMemory)
  }

  /** Records the rest, for the rows that are sampled or scored: mostly the last token of a prompt. */
  #recordOutputs(backend: Backend): void {
    const last = this.#lastMemory
    const beside = [...(this.#layerInputs?.between ?? []), ...(this.#streams?.between ?? [])]
    backend.keepOutputs([this.#hidden, ...this.#layers[last]!.mixer.between, ...beside])
    this.#recordLayerOutput(backend, last)
    for (let index = last + 1; index < this.#layers.length; index++) {
      this.#recordMixerMemory(backend, index)
      this.#recordLayerOutput(backend, index)
    }
    this.#streams?.recordEnd(backend, this.#hidden, this.#branch)
  }

  #recordMixerMemory(backend: Backend, index: number): void {
    const hidden = this.#hidden
    const { inputNorm, mixer } = this.#layers[index]!
    this.#streams?.recordPrediction(backend, index, hidden)
    if (inputNorm !== undefined) this.#streams?.recordLaurel(backend, index, hidden, inputNorm)
    mixer.recordMemory(backend, hidden, inputNorm)
  }

  #recordLayerOutput(backend: Backend, index: number): void {
    const hidden = this.#hidden
    const branch = this.#branch
    const layerInputs = this.#layerInputs
    const streams = this.#streams
    const { inputNorm, mixer, mixerNorm, mlp, scale } = this.#layers[index]!
    mixer.recordOutput(backend, hidden, inputNorm, branch)
    if (mixerNorm !== null) backend.normAdd(hidden, branch, mixerNorm)
    streams?.recordAugmentation(backend, hidden)
    // The layer's scale applies to its last addition.
    mlp.record(backend, hidden, branch, layerInputs === null ? scale : 1)
    streams?.recordCorrection(backend, index, hidden)
    layerInputs?.recordLayer(backend, index, hidden, streams?.others ?? [hidden], branch, scale)
  }
}

/** Prefixes of the decoder's tensors. Models with a vision part nest the text part; models without a head have no prefix. */
const PREFIXES = ['model.', 'model.language_model.', 'language_model.model.', ''] as const

const prefixOf = ({ tensors }: WeightSource): string =>
  PREFIXES.find((candidate) => tensors.has(`${candidate}embed_tokens.weight`)) ?? PREFIXES[0]

interface DecoderParts {
  /** Gives the matrices; absent: they are read from the source. */
  readonly weights?: WeightLoader
  /** Every step has whole sequences. No layer's K and V are read after it then, and layers of one shape share one layer of the pool. */
  readonly isSinglePass?: boolean
  /** null or absent: the model has no adapters. */
  readonly updates?: Updates | null
}

/**
 * Reads every weight, one tensor at a time, onto the backend.
 * @throws ModelError for a tensor that is missing or has another shape before anything is read, so that a broken checkpoint fails at once
 */
export async function loadDecoder(
  backend: Backend,
  spec: DecoderSpec,
  source: WeightSource,
  { weights = unpackedLoader(backend, source), isSinglePass = false, updates = null }: DecoderParts = {},
): Promise<Decoder> {
  await decoderTensors(spec, source)
  const norms = { eps: spec.normEps, addsOne: spec.normAddsOne }
  const parameters = new BackendParameters(backend, source, weights, norms, updates)
  const ropes = spec.ropes.map((rope, i) =>
    backend.loadRope(`rope.${i}`, rope.inverseFrequencies, rope.attentionFactor),
  )
  const loaded = await loadParts(spec, parameters, ropes, isSinglePass)
  return new Decoder(backend, spec, loaded, updates === null ? null : new AdaptedBackend(backend, parameters))
}

/**
 * The tensors that a decoder loads from a checkpoint. The file may have more: towers for images and sound, layers that predict further tokens, K and
 * V projections of layers that read another layer's.
 * @throws ModelError as `loadDecoder` does
 */
export async function decoderTensors(spec: DecoderSpec, source: WeightSource): Promise<ReadonlySet<TensorInfo>> {
  const check = new TensorCheck(source)
  await loadParts(spec, check, [], false)
  return check.found
}

async function loadParts(
  spec: DecoderSpec,
  parameters: Parameters,
  ropes: readonly RopeTable[],
  isSinglePass: boolean,
): Promise<DecoderWeights> {
  const { hiddenSize, vocabSize, names, normPlacement } = spec
  const { source } = parameters
  const prefix = prefixOf(source)
  const norm = (name: string): Promise<Norm> => parameters.norm(name, hiddenSize)
  const embedding = await parameters.matrix([[`${prefix}embed_tokens`, vocabSize]], hiddenSize)
  const parts = { parameters, spec, ropes }
  const layers: Layer[] = []
  const bases = spec.layers.map((_, index) => `${prefix}layers.${index}.`)
  const { places } = kvPlaces(spec, isSinglePass)
  let numStates = 0
  for (const [index, { mixer, mlp }] of spec.layers.entries()) {
    const base = bases[index]!
    const memory = mixer.kind === 'attention' ? places[index]! : numStates++
    layers.push({
      inputNorm: normPlacement === 'post' ? undefined : await norm(`${base}${names.inputNorm}`),
      mixer: await loadMixer(parts, mixer, { base, memory }),
      mixerNorm: normPlacement === 'pre' ? null : await norm(`${base}${names.attentionNorm}`),
      mlp: await loadMlp(parts, mlp, base),
      scale: spec.hasLayerScale ? await parameters.scalar(`${base}layer_scalar`) : 1,
    })
  }
  const finalNorm = await norm(`${prefix}${names.finalNorm}`)
  const head = spec.tiesEmbeddings
    ? embedding
    : await parameters.matrix([[headName(source, prefix), vocabSize]], hiddenSize)
  const layerInputs = spec.layerInputs === null ? null : await LayerInputs.load(parts, spec.layerInputs, prefix, bases)
  const streams = spec.streams === null ? null : await Streams.load(parts, spec.streams, prefix, bases)
  return { embedding, head, norm: finalNorm, layers, layerInputs, streams }
}

function headName(source: WeightSource, prefix: string): string {
  const nested = `${prefix.replace(/model\.$/, '')}lm_head`
  return source.tensors.has(`${nested}.weight`) ? nested : 'lm_head'
}
