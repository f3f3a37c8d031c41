/**
 * Gemma 3n's residual streams: alternating updates (AltUp, arXiv 2301.13310), where a layer computes one of several streams and the others are
 * predicted and corrected, and the learned augmented residual (LAuReL, arXiv 2411.07501), a small path beside attention.
 */
import type { Backend } from '../../kernels/backend.ts'
import type { Activation, Matrix, Norm, Vector } from '../../kernels/ops.ts'
import { expectTensor, expectValues, type WeightSource } from '../weights/source.ts'
import type { ConfigReader } from './config-reader.ts'
import type { Family } from './family.ts'
import { expectLinear, type Parameters } from './parameters.ts'
import type { DecoderSpec } from './spec.ts'

export interface StreamsSpec {
  readonly numStreams: number
  /** The stream that layers compute. */
  readonly active: number
  /** Of the augmented residual. */
  readonly laurelRank: number
}

/** What config.json says of them; null: there is one stream. */
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

interface Parts {
  readonly backend: Backend
  readonly parameters: Parameters
  readonly spec: DecoderSpec
}

/** The streams, and what each layer does to them before and after its own part. */
export class Streams {
  readonly #backend: Backend
  readonly #active: number
  readonly #layers: readonly LayerWeights[]
  readonly #projections: readonly Matrix[]
  readonly #unembedProjections: readonly Matrix[]
  readonly #buffers: Buffers

  private constructor(
    backend: Backend,
    active: number,
    weights: { layers: readonly LayerWeights[]; projections: readonly Matrix[]; unembedProjections: readonly Matrix[] },
    buffers: Buffers,
  ) {
    this.#backend = backend
    this.#active = active
    this.#layers = weights.layers
    this.#projections = weights.projections
    this.#unembedProjections = weights.unembedProjections
    this.#buffers = buffers
  }

  /** Loads the tensors, of layers `layerBases`. */
  static async load(parts: Parts, own: StreamsSpec, prefix: string, layerBases: readonly string[]): Promise<Streams> {
    const { backend, parameters, spec } = parts
    const { hiddenSize } = spec
    const layers: LayerWeights[] = []
    for (const base of layerBases) layers.push(await loadLayer(parts, own, base))
    const matrices = async (names: readonly string[]): Promise<Matrix[]> => {
      const loaded: Matrix[] = []
      for (const name of names) loaded.push(await parameters.matrix([[name, hiddenSize]], hiddenSize))
      return loaded
    }
    const names = projectionNames(prefix, own)
    const weights = {
      layers,
      projections: await matrices(names.projections),
      unembedProjections: await matrices(names.unembedProjections),
    }
    return new Streams(backend, own.active, weights, {
      streams: Array.from({ length: own.numStreams }, (_, i) => parameters.activation(`stream ${i}`, hiddenSize)),
      logits: parameters.activation('stream router', own.numStreams),
      rank: parameters.activation('laurel rank', own.laurelRank),
      laurel: parameters.activation('laurel', hiddenSize),
      augmented: parameters.activation('augmented', hiddenSize),
    })
  }

  /** Where the embeddings go. */
  get first(): Activation {
    return this.#buffers.streams[0]!
  }

  /** The streams that layer inputs are added to. */
  get others(): readonly Activation[] {
    return this.#buffers.streams.slice(1)
  }

  /** Makes all streams of the first, as long as it. */
  recordStart(): void {
    const { streams } = this.#buffers
    for (const [i, projection] of this.#projections.entries()) {
      this.#backend.linear(streams[i + 1]!, this.first, projection, {})
      this.#backend.matchLength(streams[i + 1]!, this.first)
    }
  }

  /** Before a layer: predicts the streams; `hidden` is the active one then. */
  recordPrediction(index: number, hidden: Activation): void {
    const { router, routerNorm, predict } = this.#layers[index]!
    const { streams, logits } = this.#buffers
    this.#backend.linear(logits, streams[this.#active]!, router, { norm: routerNorm })
    this.#backend.predictStreams(hidden, { streams, active: this.#active, logits, coefficients: predict })
  }

  /** Computes the augmented residual of `hidden`, normalised. */
  recordLaurel(index: number, hidden: Activation, norm: Norm): void {
    const backend = this.#backend
    const { left, right, laurelNorm } = this.#layers[index]!
    const { rank, laurel, augmented } = this.#buffers
    backend.rmsNorm(augmented, hidden, norm)
    backend.linear(rank, augmented, left, {})
    backend.linear(laurel, rank, right, {})
    backend.normAdd(augmented, laurel, laurelNorm)
  }

  /** Behind attention: the mean of its sum and the augmented residual, by the root of two. */
  recordAugmentation(hidden: Activation): void {
    this.#backend.add(hidden, this.#buffers.augmented, Math.SQRT1_2)
  }

  /** After a layer: corrects the streams by what it made of `hidden`, which is the active stream then, scaled. */
  recordCorrection(index: number, hidden: Activation): void {
    const { router, routerNorm, correct, scale } = this.#layers[index]!
    const { streams, logits } = this.#buffers
    this.#backend.linear(logits, hidden, router, { norm: routerNorm })
    this.#backend.correctStreams(hidden, scale, { streams, active: this.#active, logits, coefficients: correct })
  }

  /** Into `hidden` the mean of all streams, projected and as long as the first. @param branch room for one */
  recordEnd(hidden: Activation, branch: Activation): void {
    const backend = this.#backend
    const { streams } = this.#buffers
    for (const [i, projection] of this.#unembedProjections.entries()) {
      const out = i === 0 ? hidden : branch
      backend.linear(out, streams[i + 1]!, projection, {})
      backend.matchLength(out, this.first)
      if (i > 0) backend.add(hidden, branch, 1)
    }
    backend.add(hidden, this.first, 1 / streams.length)
  }
}

async function loadLayer({ parameters, spec }: Parts, own: StreamsSpec, base: string): Promise<LayerWeights> {
  const { hiddenSize, normEps } = spec
  const { numStreams, laurelRank } = own
  return {
    router: await parameters.matrix([[`${base}altup.modality_router`, numStreams]], hiddenSize),
    routerNorm: {
      weight: await parameters.vector(`${base}altup.router_norm.weight`, hiddenSize, (value) => value / hiddenSize),
      eps: normEps,
    },
    predict: await parameters.vector(`${base}altup.prediction_coefs.weight`, numStreams ** 3),
    correct: await parameters.vector(`${base}altup.correction_coefs.weight`, numStreams ** 2),
    scale: await parameters.vector(`${base}altup.correct_output_scale`, hiddenSize),
    left: await parameters.matrix([[`${base}laurel.linear_left`, laurelRank]], hiddenSize),
    right: await parameters.matrix([[`${base}laurel.linear_right`, hiddenSize]], laurelRank),
    laurelNorm: await parameters.norm(`${base}laurel.post_laurel_norm`, hiddenSize),
  }
}

function projectionNames(prefix: string, { numStreams }: StreamsSpec) {
  const named = (name: string) => Array.from({ length: numStreams - 1 }, (_, i) => `${prefix}${name}.${i}`)
  return { projections: named('altup_projections'), unembedProjections: named('altup_unembed_projections') }
}

/** Checks the tensors. Throws ModelError. */
export function expectStreams(
  source: WeightSource,
  { hiddenSize }: DecoderSpec,
  own: StreamsSpec,
  prefix: string,
  layerBases: readonly string[],
): void {
  const { numStreams, laurelRank } = own
  const { projections, unembedProjections } = projectionNames(prefix, own)
  for (const name of [...projections, ...unembedProjections])
    expectLinear(source, [[name, hiddenSize]], hiddenSize, false)
  for (const base of layerBases) {
    expectLinear(source, [[`${base}altup.modality_router`, numStreams]], hiddenSize, false)
    expectTensor(source, `${base}altup.prediction_coefs.weight`, [numStreams * numStreams, numStreams])
    expectTensor(source, `${base}altup.correction_coefs.weight`, [numStreams, numStreams])
    expectValues(source, `${base}altup.correct_output_scale`, hiddenSize)
    expectLinear(source, [[`${base}laurel.linear_left`, laurelRank]], hiddenSize, false)
    expectLinear(source, [[`${base}laurel.linear_right`, hiddenSize]], laurelRank, false)
  }
}
