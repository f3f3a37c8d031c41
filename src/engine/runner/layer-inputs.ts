/**
 * Per-layer embeddings (Gemma 3n, Gemma 4): besides the embedding that enters the first layer, each layer has a small input of its own. The inputs of
 * all layers are computed at the start, from a second embedding table and a projection of the first embedding. Each layer gates its own.
 */
import type { Backend } from '../../kernels/backend.ts'
import type { Activation, Matrix, Norm } from '../../kernels/ops.ts'
import type { ConfigReader } from './config-reader.ts'
import type { LayerInputsSpec } from './decoder-spec.ts'
import type { Family } from './family.ts'
import type { LayerParts } from './layer-parts.ts'

/** Reads them from config.json; null: the model has none. */
export function layerInputsOf(config: ConfigReader, { hasLayerInputs }: Family): LayerInputsSpec | null {
  const width = hasLayerInputs ? config.number('hidden_size_per_layer_input', 0) : 0
  if (width === 0) return null
  return {
    width: config.size('hidden_size_per_layer_input'),
    vocabSize: config.size('vocab_size_per_layer_input', config.size('vocab_size')),
  }
}

interface Weights {
  readonly table: Matrix // [vocabSize, layers x width]
  readonly projection: Matrix // [layers x width, hidden]
  readonly norm: Norm
  readonly layers: readonly LayerWeights[]
}

interface LayerWeights {
  readonly gate: Matrix // [width, hidden]
  readonly projection: Matrix // [hidden, width]
  readonly norm: Norm
}

/** Computes the inputs of all layers, and adds each to its layer's output. */
export class LayerInputs {
  readonly #weights: Weights
  readonly #inputs: Activation // [rows, layers x width]
  readonly #gated: Activation // [rows, width]

  private constructor(weights: Weights, inputs: Activation, gated: Activation) {
    this.#weights = weights
    this.#inputs = inputs
    this.#gated = gated
  }

  /** Loads the tables and each layer's tensors. @param layerBases prefixes of the layers' tensors @throws ModelError */
  static async load(
    { parameters, spec }: LayerParts,
    own: LayerInputsSpec,
    prefix: string,
    layerBases: readonly string[],
  ): Promise<LayerInputs> {
    const { hiddenSize, normEps } = spec
    const width = layerBases.length * own.width
    const layers: LayerWeights[] = []
    for (const base of layerBases) {
      layers.push({
        gate: await parameters.matrix([[`${base}per_layer_input_gate`, own.width]], hiddenSize),
        projection: await parameters.matrix([[`${base}per_layer_projection`, hiddenSize]], own.width),
        norm: await parameters.norm(`${base}post_per_layer_input_norm`, hiddenSize),
      })
    }
    const halved = (value: number): number => value * Math.SQRT1_2
    const weights = {
      table: await parameters.matrix([[`${prefix}embed_tokens_per_layer`, own.vocabSize]], width),
      projection: await parameters.matrix([[`${prefix}per_layer_model_projection`, width]], hiddenSize),
      norm: {
        // The factor 1 / sqrt(2) of the sum of table and projection is folded into the norm's weight. The model also divides the projection by
        // sqrt(hidden); the norm after it undoes that, except for its epsilon.
        weight: await parameters.vector(`${prefix}per_layer_projection_norm.weight`, [own.width], halved),
        eps: normEps * hiddenSize,
      },
      layers,
    }
    const inputs = parameters.activation('layer inputs', width)
    return new LayerInputs(weights, inputs, parameters.activation('gated layer input', own.width))
  }

  /** What layers take of `record`, row by row. */
  get between(): readonly Activation[] {
    return [this.#inputs]
  }

  /** Computes the inputs of all layers. @param embedded what enters the first layer */
  record(backend: Backend, embedded: Activation): void {
    const { table, projection, norm } = this.#weights
    backend.linear(this.#inputs, embedded, projection, {})
    backend.rmsNorm(this.#inputs, this.#inputs, norm)
    backend.embed(this.#inputs, table, Math.sqrt(this.#gated.cols) * Math.SQRT1_2, true)
  }

  /**
   * Adds the layer's input, gated by `x`, to each of `targets` and multiplies the sums by `scale`.
   * @param branch room for what is added
   */
  recordLayer(
    backend: Backend,
    index: number,
    x: Activation,
    targets: readonly Activation[],
    branch: Activation,
    scale: number,
  ): void {
    const { gate, projection, norm } = this.#weights.layers[index]!
    backend.linear(this.#gated, x, gate, { activation: 'gelu_tanh' })
    backend.multiply(this.#gated, { x: this.#inputs, offset: index * this.#gated.cols })
    backend.linear(branch, this.#gated, projection, {})
    for (const target of targets) backend.normAdd(target, branch, norm, scale)
  }
}
