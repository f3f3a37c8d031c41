/** The forward pass, written once against the op vocabulary: weights of any family of `families.ts` in, a step's ops out. */
import type { Backend, OpSequence } from '../../kernels/backend.ts'
import type {
  Activation,
  KvLayout,
  KvShape,
  LogitsOptions,
  Matrix,
  Norm,
  Pooling,
  StateLayout,
} from '../../kernels/ops.ts'
import type { SampleRow, ScoreRow } from '../../kernels/sample-spec.ts'
import { unpackedLoader, type WeightLoader } from '../weights/packed-cache.ts'
import { expectValues, type TensorInfo, type WeightSource } from '../weights/source.ts'
import { AdaptedBackend } from './adapted-backend.ts'
import { expectLayerInputs, LayerInputs } from './layer-inputs.ts'
import { expectMixer, loadMixer, type Mixer, stateShapeOf } from './mixers/mixer.ts'
import { expectMlp, loadMlp, type Mlp } from './mlps/mlp.ts'
import { expectLinear, Parameters, type Updates } from './parameters.ts'
import type { DecoderSpec } from './spec.ts'
import { expectStreams, Streams } from './streams.ts'

interface Layer {
  readonly inputNorm: Norm | undefined
  readonly mixer: Mixer
  /** Of the mixer's output, where that is normalised before it is added. */
  readonly mixerNorm: Norm | null
  readonly mlp: Mlp
  /** What its output is multiplied by. */
  readonly scale: number
}

/** A decoder-only model on a backend: records its ops at load and runs them per step. */
export class Decoder {
  readonly #backend: Backend
  readonly #spec: DecoderSpec
  readonly #layers: readonly Layer[]
  readonly #embedding: Matrix
  readonly #head: Matrix
  readonly #logits: LogitsOptions
  readonly #hidden: Activation // the residual stream [rows, hidden]
  readonly #layerInputs: LayerInputs | null
  readonly #streams: Streams | null
  readonly #branch: Activation // a block's output where it is normalised before it is added [rows, hidden]
  readonly #layerOps: OpSequence
  /** The same with the updates of each row's adapter. */
  readonly #adaptedOps: OpSequence | null

  constructor(
    backend: Backend,
    spec: DecoderSpec,
    weights: {
      embedding: Matrix
      head: Matrix
      norm: Norm
      layers: readonly Layer[]
      layerInputs: LayerInputs | null
      streams: Streams | null
    },
    adapted: AdaptedBackend | null,
  ) {
    const { hiddenSize } = spec
    this.#backend = backend
    this.#spec = spec
    this.#layers = weights.layers
    this.#embedding = weights.embedding
    this.#layerInputs = weights.layerInputs
    this.#streams = weights.streams
    this.#head = weights.head
    this.#logits = { norm: weights.norm, softcap: spec.logitSoftcap, scale: spec.logitScale }
    this.#hidden = backend.createActivation('hidden', hiddenSize)
    this.#branch = spec.normPlacement === 'pre' ? this.#hidden : backend.createActivation('branch', hiddenSize)
    const head = { x: this.#hidden, head: this.#head, options: this.#logits }
    const record = (label: string, addsUpdates: boolean): OpSequence => {
      const ops = (): void => this.#recordLayers()
      return backend.record(label, adapted === null ? ops : () => adapted.during(addsUpdates, ops), head)
    }
    this.#layerOps = record('layers', false)
    this.#adaptedOps = adapted === null ? null : record('layers with adapters', true)
  }

  /** Issues the ops of a step, between the backend's beginStep and endStep: those of the layers first. @param isAdapted the step names adapters */
  layers(isAdapted: boolean): void {
    if (isAdapted && this.#adaptedOps === null) throw new Error('the step names adapters, the model has none')
    this.#backend.run(isAdapted && this.#adaptedOps !== null ? this.#adaptedOps : this.#layerOps)
  }

  /** Then those of what the step gives back. */
  outputs(samples: readonly SampleRow[], scores: readonly ScoreRow[]): void {
    const backend = this.#backend
    if (samples.length > 0) backend.sample(this.#hidden, this.#head, this.#logits, samples)
    if (scores.length > 0) backend.score(this.#hidden, this.#head, this.#logits, scores)
  }

  /** In place of both, in steps of whole sequences: a row for each, of the last norm's output. */
  pool(pooling: Pooling): void {
    this.#backend.run(this.#layerOps)
    this.#backend.rmsNorm(this.#hidden, this.#hidden, this.#logits.norm)
    this.#backend.pool(this.#hidden, pooling)
  }

  /** The same in every step. */
  #recordLayers(): void {
    const hidden = this.#hidden
    const branch = this.#branch
    const layerInputs = this.#layerInputs
    const streams = this.#streams
    const embedded = streams?.first ?? hidden
    this.#backend.embed(embedded, this.#embedding, this.#spec.embeddingScale)
    layerInputs?.record(embedded)
    streams?.recordStart()
    for (const [index, { inputNorm, mixer, mixerNorm, mlp, scale }] of this.#layers.entries()) {
      streams?.recordPrediction(index, hidden)
      if (inputNorm !== undefined) streams?.recordLaurel(index, hidden, inputNorm)
      mixer.record(hidden, inputNorm, branch)
      if (mixerNorm !== null) this.#backend.normAdd(hidden, branch, mixerNorm)
      streams?.recordAugmentation(hidden)
      // A layer's last addition takes its scale.
      mlp.record(hidden, branch, layerInputs === null ? scale : 1)
      streams?.recordCorrection(index, hidden)
      layerInputs?.recordLayer(index, hidden, streams?.others ?? [hidden], branch, scale)
    }
    streams?.recordEnd(hidden, branch)
  }
}

/** Where the layers have their K and V: the pool's layers, and for each layer of the model its index among them, -1 where it has no attention. */
function kvPlaces({ layers }: DecoderSpec, isSinglePass: boolean): { shapes: readonly KvShape[]; places: number[] } {
  const shared = new Set(layers.map(({ mixer }) => (mixer.kind === 'attention' ? mixer.sharesWith : null)))
  const shapes: KvShape[] = []
  const rooms = new Map<string, number>()
  const places: number[] = []
  for (const [index, { mixer }] of layers.entries()) {
    if (mixer.kind !== 'attention') places.push(-1)
    else if (mixer.sharesWith !== null) places.push(places[mixer.sharesWith]!)
    else {
      const { numKvHeads, headDim } = mixer
      // Read by no later layer and by no later step: layers alike may have the same room.
      const room = isSinglePass && !shared.has(index) ? `${numKvHeads} x ${headDim}` : `layer ${index}`
      const place = rooms.get(room) ?? shapes.push({ numKvHeads, headDim }) - 1
      rooms.set(room, place)
      places.push(place)
    }
  }
  return { shapes, places }
}

/** The KV pool's shape for `numBlocks` blocks. `isSinglePass`: as of loadDecoder. */
export function kvLayout(spec: DecoderSpec, numBlocks: number, blockSize: number, isSinglePass = false): KvLayout {
  return { numBlocks, blockSize, layers: kvPlaces(spec, isSinglePass).shapes }
}

/** What the layers keep of a sequence beside K and V, in `numSlots` slots; null: nothing. */
export function stateLayout(spec: DecoderSpec, numSlots: number): StateLayout | null {
  const shapes = spec.layers.flatMap(({ mixer }) => stateShapeOf(mixer, spec) ?? [])
  return shapes.length === 0 ? null : { numSlots, layers: shapes }
}

/** Where the decoder's tensors are: models with a vision part keep the text part deeper, models without a head have no prefix. */
const PREFIXES = ['model.', 'model.language_model.', 'language_model.model.', ''] as const

const prefixOf = ({ tensors }: WeightSource): string =>
  PREFIXES.find((candidate) => tensors.has(`${candidate}embed_tokens.weight`)) ?? PREFIXES[0]

interface DecoderParts {
  /** Where matrices come from; absent: the source. */
  readonly weights?: WeightLoader
  /** Steps have whole sequences, so that a layer's keys and values are not read after it and layers alike share their room in the pool. */
  readonly isSinglePass?: boolean
  /** null or absent: the model is served without adapters. */
  readonly updates?: Updates | null
}

/**
 * Reads every weight, one tensor at a time, into the backend; q, k, v and gate, up are joined to one matrix each. Throws ModelError for a missing or
 * misshapen tensor before anything is read, so that a broken checkpoint fails at once.
 */
export async function loadDecoder(
  backend: Backend,
  spec: DecoderSpec,
  source: WeightSource,
  { weights = unpackedLoader(backend, source), isSinglePass = false, updates = null }: DecoderParts = {},
): Promise<Decoder> {
  const prefix = prefixOf(source)
  checkTensors(spec, source, prefix)
  const { hiddenSize, vocabSize, names, normPlacement } = spec
  const norms = { eps: spec.normEps, addsOne: spec.normAddsOne }
  const parameters = new Parameters(backend, source, weights, norms, updates)
  const adapted = updates === null ? null : new AdaptedBackend(backend, parameters)

  const embedding = await parameters.matrix([[`${prefix}embed_tokens`, vocabSize]], hiddenSize)
  const ropes = spec.ropes.map((rope, i) =>
    backend.loadRope(`rope.${i}`, rope.inverseFrequencies, rope.attentionFactor),
  )
  const parts = { backend: adapted?.backend ?? backend, parameters, spec, ropes }
  const layers: Layer[] = []
  const { places } = kvPlaces(spec, isSinglePass)
  let numStates = 0
  for (const [index, layer] of spec.layers.entries()) {
    const base = `${prefix}layers.${index}.`
    const isAttention = layer.mixer.kind === 'attention'
    const memory = isAttention ? places[index]! : numStates++
    layers.push({
      inputNorm: normPlacement === 'post' ? undefined : await parameters.norm(`${base}${names.inputNorm}`, hiddenSize),
      mixer: await loadMixer(parts, layer.mixer, { base, memory }),
      mixerNorm: normPlacement === 'pre' ? null : await parameters.norm(`${base}${names.attentionNorm}`, hiddenSize),
      mlp: await loadMlp(parts, layer.mlp, base),
      scale: spec.hasLayerScale ? (await parameters.values(`${base}${LAYER_SCALE}`, 1))[0]! : 1,
    })
  }
  const finalNorm = await parameters.norm(`${prefix}${names.finalNorm}`, hiddenSize)
  const head = spec.tiesEmbeddings
    ? embedding
    : await parameters.matrix([[headName(source, prefix), vocabSize]], hiddenSize)
  const bases = layerBases(spec, prefix)
  const layerInputs = spec.layerInputs === null ? null : await LayerInputs.load(parts, spec.layerInputs, prefix, bases)
  const streams = spec.streams === null ? null : await Streams.load(parts, spec.streams, prefix, bases)
  return new Decoder(backend, spec, { embedding, head, norm: finalNorm, layers, layerInputs, streams }, adapted)
}

const LAYER_SCALE = 'layer_scalar'

const layerBases = ({ layers }: DecoderSpec, prefix: string): readonly string[] =>
  layers.map((_, index) => `${prefix}layers.${index}.`)

function headName(source: WeightSource, prefix: string): string {
  const nested = `${prefix.replace(/model\.$/, '')}lm_head`
  return source.tensors.has(`${nested}.weight`) ? nested : 'lm_head'
}

/** Checks name and shape of every tensor the spec asks for. */
function checkTensors(spec: DecoderSpec, source: WeightSource, prefix: string): void {
  const { hiddenSize, vocabSize } = spec
  expectLinear(source, [[`${prefix}embed_tokens`, vocabSize]], hiddenSize, false)
  for (const [index, { mixer, mlp }] of spec.layers.entries()) {
    const base = `${prefix}layers.${index}.`
    expectMixer(source, spec, mixer, base)
    expectMlp(source, spec, mlp, base)
    if (spec.hasLayerScale) expectValues(source, `${base}${LAYER_SCALE}`, 1)
  }
  const bases = layerBases(spec, prefix)
  if (spec.layerInputs !== null) expectLayerInputs(source, spec, spec.layerInputs, prefix, bases)
  if (spec.streams !== null) expectStreams(source, spec, spec.streams, prefix, bases)
  if (!spec.tiesEmbeddings) expectLinear(source, [[headName(source, prefix), vocabSize]], hiddenSize, false)
}

/** Notes which of a checkpoint's tensors are looked up. */
class TensorLookups extends Map<string, TensorInfo> {
  readonly found = new Set<TensorInfo>()

  override get(name: string): TensorInfo | undefined {
    const info = super.get(name)
    if (info !== undefined) this.found.add(info)
    return info
  }
}

/**
 * The matrices that a decoder loads of a checkpoint, which may have more: towers for images and sound, layers that predict further tokens, K and V of
 * layers that take another's. Throws ModelError as loadDecoder does.
 */
export function decoderTensors(spec: DecoderSpec, source: WeightSource): ReadonlySet<TensorInfo> {
  const tensors = new TensorLookups(source.tensors)
  checkTensors(spec, { ...source, tensors }, prefixOf(source))
  return tensors.found
}
