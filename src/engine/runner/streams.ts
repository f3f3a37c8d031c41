/**
 * Gemma 3n's residual streams. With alternating updates (AltUp, arXiv 2301.13310) each layer computes one of several streams; the others are predicted
 * before the layer and corrected after it. The learned augmented residual (LAuReL, arXiv 2411.07501) is a low-rank path beside attention.
 */
import type { Backend } from '../../kernels/backend.ts'
import type { Activation, Matrix, Norm, Vector } from '../../kernels/ops.ts'
import type { ConfigReader } from './config-reader.ts'
import type { StreamsSpec } from './decoder-spec.ts'
import type { Family } from './family.ts'
import type { LayerParts } from './layer-parts.ts'

/** Reads them from config.json; null: there is one stream. */
export function streamsOf(config: ConfigReader, { hasStreams }: Family): StreamsSpec | null {
  if (!hasStreams) return null
  const numStreams = config.size('altup_num_inputs', 4)
  const active = config.number('altup_active_idx', 0)
  if (numStreams < 2 || numStreams > 4) config.fail('altup_num_inputs', 'from 2 to 4')
  if (!Number.isInteger(active) || active < 0 || active >= numStreams)
    config.fail('altup_active_idx', `below altup_num_inputs (${numStreams})`)
  if (!config.flag('altup_correct_scale', true)) config.fail('altup_correct_scale', 'true')
  return { numStreams, active, laurelRank: config.size('laurel_rank', 64) }
}

interface Weights {
  readonly layers: readonly LayerWeights[]
  /** [hidden, hidden] each, one per stream but the first. */
  readonly projections: readonly Matrix[]
  readonly unembedProjections: readonly Matrix[]
}

interface LayerWeights {
  readonly router: Matrix // [streams, hidden]
  readonly routerNorm: Norm
  readonly predict: Vector // [streams x streams, streams]
  readonly correct: Vector // [streams, streams]
  readonly scale: Vector // [hidden]
  readonly left: Matrix // [rank, hidden]
  readonly right: Matrix // [hidden, rank]
  readonly laurelNorm: Norm
}

interface Buffers {
  /** [rows, hidden] each. */
  readonly streams: readonly Activation[]
  readonly logits: Activation // [rows, streams]
  readonly rank: Activation // [rows, rank]
  readonly laurel: Activation // [rows, hidden]
  readonly augmented: Activation // [rows, hidden]
}

/** The residual streams, and the ops on them around each layer. */
export class Streams {
  readonly #active: number
  readonly #weights: Weights
  readonly #buffers: Buffers

  private constructor(active: number, weights: Weights, buffers: Buffers) {
    this.#active = active
    this.#weights = weights
    this.#buffers = buffers
  }

  /** Loads the projections and each layer's tensors. @param layerBases prefixes of the layers' tensors @throws ModelError */
  static async load(
    parts: LayerParts,
    own: StreamsSpec,
    prefix: string,
    layerBases: readonly string[],
  ): Promise<Streams> {
    const { parameters, spec } = parts
    const { hiddenSize } = spec
    const layers: LayerWeights[] = []
    for (const base of layerBases) layers.push(await loadLayer(parts, own, base))
    const matrices = async (name: string): Promise<Matrix[]> => {
      const loaded: Matrix[] = []
      for (let i = 0; i < own.numStreams - 1; i++)
        loaded.push(await parameters.matrix([[`${prefix}${name}.${i}`, hiddenSize]], hiddenSize))
      return loaded
    }
    const weights = {
      layers,
      projections: await matrices('altup_projections'),
      unembedProjections: await matrices('altup_unembed_projections'),
    }
    return new Streams(own.active, weights, {
      streams: Array.from({ length: own.numStreams }, (_, i) => parameters.activation(`stream ${i}`, hiddenSize)),
      logits: parameters.activation('stream router', own.numStreams),
      rank: parameters.activation('laurel rank', own.laurelRank),
      laurel: parameters.activation('laurel', hiddenSize),
      augmented: parameters.activation('augmented', hiddenSize),
    })
  }

  /** The stream that the embeddings are written to. */
  get first(): Activation {
    return this.#buffers.streams[0]!
  }

  /** The streams that per-layer inputs are added to. */
  get others(): readonly Activation[] {
    return this.#buffers.streams.slice(1)
  }

  /** What a layer takes of the ops before its mixer's output, row by row. */
  get between(): readonly Activation[] {
    return [...this.#buffers.streams, this.#buffers.augmented]
  }

  /** Computes all other streams from the first, scaled to its root mean square. */
  recordStart(backend: Backend): void {
    const { streams } = this.#buffers
    for (const [i, projection] of this.#weights.projections.entries()) {
      backend.linear(streams[i + 1]!, this.first, projection, {})
      backend.matchLength(streams[i + 1]!, this.first)
    }
  }

  /** Before a layer: predicts all streams, and writes the active one to `hidden`. */
  recordPrediction(backend: Backend, index: number, hidden: Activation): void {
    const { router, routerNorm, predict } = this.#weights.layers[index]!
    const { streams, logits } = this.#buffers
    backend.linear(logits, streams[this.#active]!, router, { norm: routerNorm })
    backend.predictStreams(hidden, { streams, active: this.#active, logits, coefficients: predict })
  }

  /** Computes the augmented residual of `hidden`. @param norm the layer's input norm */
  recordLaurel(backend: Backend, index: number, hidden: Activation, norm: Norm): void {
    const { left, right, laurelNorm } = this.#weights.layers[index]!
    const { rank, laurel, augmented } = this.#buffers
    backend.rmsNorm(augmented, hidden, norm)
    backend.linear(rank, augmented, left, {})
    backend.linear(laurel, rank, right, {})
    backend.normAdd(augmented, laurel, laurelNorm)
  }

  /** After attention: adds the augmented residual to `hidden` and divides the sum by sqrt(2). */
  recordAugmentation(backend: Backend, hidden: Activation): void {
    backend.add(hidden, this.#buffers.augmented, Math.SQRT1_2)
  }

  /** After a layer: corrects all streams by the layer's output `hidden`, then writes the scaled active stream to `hidden`. */
  recordCorrection(backend: Backend, index: number, hidden: Activation): void {
    const { router, routerNorm, correct, scale } = this.#weights.layers[index]!
    const { streams, logits } = this.#buffers
    backend.linear(logits, hidden, router, { norm: routerNorm })
    backend.correctStreams(hidden, scale, { streams, active: this.#active, logits, coefficients: correct })
  }

  /** Writes to `hidden` the mean of all streams, each projected and scaled to the root mean square of the first. @param branch room for one stream */
  recordEnd(backend: Backend, hidden: Activation, branch: Activation): void {
    const { streams } = this.#buffers
    for (const [i, projection] of this.#weights.unembedProjections.entries()) {
      const out = i === 0 ? hidden : branch
      backend.linear(out, streams[i + 1]!, projection, {})
      backend.matchLength(out, this.first)
      if (i > 0) backend.add(hidden, branch, 1)
    }
    backend.add(hidden, this.first, 1 / streams.length)
  }
}

async function loadLayer({ parameters, spec }: LayerParts, own: StreamsSpec, base: string): Promise<LayerWeights> {
  const { hiddenSize, normEps } = spec
  const { numStreams, laurelRank } = own
  return {
    router: await parameters.matrix([[`${base}altup.modality_router`, numStreams]], hiddenSize),
    routerNorm: {
      weight: await parameters.vector(`${base}altup.router_norm.weight`, [hiddenSize], (value) => value / hiddenSize),
      eps: normEps,
    },
    predict: await parameters.vector(`${base}altup.prediction_coefs.weight`, [numStreams ** 2, numStreams]),
    correct: await parameters.vector(`${base}altup.correction_coefs.weight`, [numStreams, numStreams]),
    scale: await parameters.vector(`${base}altup.correct_output_scale`, [hiddenSize]),
    left: await parameters.matrix([[`${base}laurel.linear_left`, laurelRank]], hiddenSize),
    right: await parameters.matrix([[`${base}laurel.linear_right`, hiddenSize]], laurelRank),
    laurelNorm: await parameters.norm(`${base}laurel.post_laurel_norm`, hiddenSize),
  }
}
