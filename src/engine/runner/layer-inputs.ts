/**
 * Per-layer embeddings (Gemma 3n, Gemma 4): besides the embedding that enters the first layer, each layer gets a small one of its own. All are
 * made at the start, from a second table and a projection of the first embedding; a layer gates the one that is its.
 */
import type { Backend } from '../../kernels/backend.ts'
import type { Activation, Matrix, Norm } from '../../kernels/ops.ts'
import { expectTensor, type WeightSource } from '../weights/source.ts'
import type { ConfigReader } from './config-reader.ts'
import type { Family } from './family.ts'
import { expectLinear, type Parameters } from './parameters.ts'
import type { DecoderSpec } from './spec.ts'

export interface LayerInputsSpec {
  /** Of a layer's input. */
  readonly width: number
  /** Rows of the second table: tokens from there on take its first. */
  readonly vocabSize: number
}

/** What config.json says of them; null: the model has none. */
export function layerInputsOf(config: ConfigReader, { hasLayerInputs }: Family): LayerInputsSpec | null {
  const width = hasLayerInputs ? config.number('hidden_size_per_layer_input', 0) : 0
  if (width === 0) return null
  return {
    width: config.size('hidden_size_per_layer_input'),
    vocabSize: config.size('vocab_size_per_layer_input', config.size('vocab_size')),
  }
}

interface LayerWeights {
  readonly gate: Matrix // [width, hidden]
  readonly projection: Matrix // [hidden, width]
  readonly norm: Norm
}

const NAMES = {
  table: 'embed_tokens_per_layer',
  projection: 'per_layer_model_projection',
  norm: 'per_layer_projection_norm',
  layerGate: 'per_layer_input_gate',
  layerProjection: 'per_layer_projection',
  layerNorm: 'post_per_layer_input_norm',
} as const

/** The inputs of all layers, and what a layer makes of its own. */
export class LayerInputs {
  readonly #backend: Backend
  readonly #table: Matrix // [vocabSize, layers x width]
  readonly #tableScale: number
  readonly #projection: Matrix // [layers x width, hidden]
  readonly #norm: Norm
  readonly #layers: readonly LayerWeights[]
  readonly #inputs: Activation // [rows, layers x width]
  readonly #gated: Activation // [rows, width]

  private constructor(
    backend: Backend,
    spec: LayerInputsSpec,
    weights: { table: Matrix; projection: Matrix; norm: Norm; layers: readonly LayerWeights[] },
    activations: { inputs: Activation; gated: Activation },
  ) {
    this.#backend = backend
    this.#table = weights.table
    this.#tableScale = Math.sqrt(spec.width) * Math.SQRT1_2
    this.#projection = weights.projection
    this.#norm = weights.norm
    this.#layers = weights.layers
    this.#inputs = activations.inputs
    this.#gated = activations.gated
  }

  /** Loads the tensors, of layers `layerBases`. */
  static async load(
    { backend, parameters, spec }: { backend: Backend; parameters: Parameters; spec: DecoderSpec },
    own: LayerInputsSpec,
    prefix: string,
    layerBases: readonly string[],
  ): Promise<LayerInputs> {
    const { hiddenSize, normEps } = spec
    const width = layerBases.length * own.width
    const layers: LayerWeights[] = []
    for (const base of layerBases) {
      layers.push({
        gate: await parameters.matrix([[`${base}${NAMES.layerGate}`, own.width]], hiddenSize),
        projection: await parameters.matrix([[`${base}${NAMES.layerProjection}`, hiddenSize]], own.width),
        norm: await parameters.norm(`${base}${NAMES.layerNorm}`, hiddenSize),
      })
    }
    const weights = {
      table: await parameters.matrix([[`${prefix}${NAMES.table}`, own.vocabSize]], width),
      projection: await parameters.matrix([[`${prefix}${NAMES.projection}`, width]], hiddenSize),
      norm: {
        // The mean of table and projection, both of length 1, is divided by sqrt(2); the norm is blind to the projection's 1 / sqrt(hidden) but for epsilon.
        weight: await parameters.vector(`${prefix}${NAMES.norm}.weight`, own.width, (value) => value * Math.SQRT1_2),
        eps: normEps * hiddenSize,
      },
      layers,
    }
    const activations = {
      inputs: parameters.activation('layer inputs', width),
      gated: parameters.activation('gated layer input', own.width),
    }
    return new LayerInputs(backend, own, weights, activations)
  }

  /** Makes the inputs of all layers. @param embedded what enters the first layer */
  record(embedded: Activation): void {
    const backend = this.#backend
    backend.linear(this.#inputs, embedded, this.#projection, {})
    backend.rmsNorm(this.#inputs, this.#inputs, this.#norm)
    backend.embed(this.#inputs, this.#table, this.#tableScale, true)
  }

  /** Adds a layer's, gated by `x`, to each of `targets`, which are multiplied by `scale` then. @param branch room for what is added */
  recordLayer(index: number, x: Activation, targets: readonly Activation[], branch: Activation, scale: number): void {
    const backend = this.#backend
    const { gate, projection, norm } = this.#layers[index]!
    backend.linear(this.#gated, x, gate, { activation: 'gelu_tanh' })
    backend.multiply(this.#gated, { x: this.#inputs, offset: index * this.#gated.cols })
    backend.linear(branch, this.#gated, projection, {})
    for (const target of targets) backend.normAdd(target, branch, norm, scale)
  }
}

/** Checks the tensors. Throws ModelError. */
export function expectLayerInputs(
  source: WeightSource,
  { hiddenSize }: DecoderSpec,
  { width, vocabSize }: LayerInputsSpec,
  prefix: string,
  layerBases: readonly string[],
): void {
  const all = layerBases.length * width
  expectLinear(source, [[`${prefix}${NAMES.table}`, vocabSize]], all, false)
  expectLinear(source, [[`${prefix}${NAMES.projection}`, all]], hiddenSize, false)
  expectTensor(source, `${prefix}${NAMES.norm}.weight`, [width])
  for (const base of layerBases) {
    expectLinear(source, [[`${base}${NAMES.layerGate}`, width]], hiddenSize, false)
    expectLinear(source, [[`${base}${NAMES.layerProjection}`, hiddenSize]], width, false)
  }
}
