/** The forward pass of encoders, written once against `Backend`: whole sequences in, one pooled row per sequence out. */
import { dequantize } from '../../../kernels/dequantize.ts'
import type { Backend, OpSequence } from '../../../kernels/backend.ts'
import type { Activation, KvLayout, LayerNorm, Matrix, Pooling, RopeTable } from '../../../kernels/ops.ts'
import { unpackedLoader } from '../../weights/weight-loader.ts'
import { readMatrix, readVector, type WeightSource } from '../../weights/source.ts'
import { BackendParameters, type Part } from '../parameters.ts'
import { ModelError } from '../runner.ts'
import { type EncoderMlp, type LinearLayer, loadEncoderMlp, loadLinear } from './mlp.ts'
import { loadRelative, type RecordRelative } from './relative.ts'
import type { EncoderLayerSpec, EncoderSpec } from './spec.ts'

interface Layer {
  readonly spec: EncoderLayerSpec
  readonly rope: RopeTable | null
  readonly qkv: LinearLayer // [3 hidden, hidden]
  readonly output: LinearLayer // [hidden, hidden]
  /** null: none, as before ModernBERT's first attention. */
  readonly attentionNorm: LayerNorm | null
  readonly mlp: EncoderMlp
  readonly mlpNorm: LayerNorm
}

interface EncoderWeights {
  readonly tokens: Matrix // [vocabulary, embedding size]
  /** [places, embedding size], added by position and segment; null: nothing is added. */
  readonly places: Matrix | null
  /** From embedding size to hidden size; null: they are equal. */
  readonly projection: { readonly embedded: Activation; readonly layer: LinearLayer } | null
  readonly embeddingNorm: LayerNorm | null
  readonly layers: readonly Layer[]
  readonly relative: RecordRelative | null
  readonly finalNorm: LayerNorm | null
}

class Encoder {
  readonly #backend: Backend
  readonly #ops: OpSequence

  /** Records the ops of a step, which end with the pooling. */
  constructor(backend: Backend, spec: EncoderSpec, weights: EncoderWeights, pooling: Pooling) {
    const { hiddenSize, numHeads, headDim } = spec
    this.#backend = backend
    const buffers = {
      hidden: backend.createActivation('hidden', hiddenSize), // the residual stream
      normed: spec.normPlacement === 'pre' ? backend.createActivation('normed', hiddenSize) : null,
      qkv: backend.createActivation('qkv', 3 * numHeads * headDim),
      q: backend.createActivation('q', numHeads * headDim),
      attended: backend.createActivation('attended', numHeads * headDim),
    }
    this.#ops = backend.record('encoder', () => record(backend, spec, weights, buffers, pooling), null)
  }

  /** Issues the ops of a step, between the backend's beginStep and endStep. */
  forward(): void {
    this.#backend.run(this.#ops)
  }
}

interface Buffers {
  readonly hidden: Activation
  readonly normed: Activation | null
  readonly qkv: Activation
  readonly q: Activation
  readonly attended: Activation
}

function record(
  backend: Backend,
  spec: EncoderSpec,
  weights: EncoderWeights,
  { hidden, normed, qkv, q, attended }: Buffers,
  pooling: Pooling,
): void {
  const { numHeads, headDim, relative } = spec
  const { embeddingNorm, projection } = weights
  const embedded = projection?.embedded ?? hidden
  const normalize = (x: Activation): void => {
    if (embeddingNorm !== null) backend.layerNorm(x, x, embeddingNorm)
  }
  backend.embed(embedded, weights.tokens, 1)
  if (weights.places !== null) backend.embedAdd(embedded, weights.places)
  if (!spec.normsProjection) normalize(embedded)
  if (projection !== null) backend.linear(hidden, embedded, projection.layer.matrix, { bias: projection.layer.bias })
  if (spec.normsProjection) normalize(hidden)
  /** A block's input: the residual stream, or the normalised stream. */
  const inputOf = (norm: LayerNorm | null): Activation => {
    if (normed === null || norm === null) return hidden
    backend.layerNorm(normed, hidden, norm)
    return normed
  }
  // Disentangled attention adds three scores of equal variance.
  const scale = (relative?.kind === 'disentangled' ? 3 * headDim : headDim) ** -0.5
  for (const [index, layer] of weights.layers.entries()) {
    const { attentionNorm, mlpNorm, output, mlp } = layer
    // K and V are read only in their own layer, so that all layers share one layer of the pool.
    const shape = { layer: 0, numHeads, numKvHeads: numHeads, headDim }
    backend.linear(qkv, inputOf(attentionNorm), layer.qkv.matrix, { bias: layer.qkv.bias })
    backend.qkvRopeStore(q, qkv, { ...shape, qkNorm: null, rope: layer.rope })
    const bias = weights.relative?.(qkv, index) ?? null
    const scope = { window: layer.spec.window, softcap: null, bidirectional: true, bias }
    backend.attention(attended, q, { ...shape, scale, ...scope })
    backend.linear(hidden, attended, output.matrix, { bias: output.bias, residual: true })
    if (normed === null && attentionNorm !== null) backend.layerNorm(hidden, hidden, attentionNorm)
    mlp.record(backend, hidden, inputOf(mlpNorm))
    if (normed === null) backend.layerNorm(hidden, hidden, mlpNorm)
  }
  if (weights.finalNorm !== null) backend.layerNorm(hidden, hidden, weights.finalNorm)
  backend.pool(hidden, pooling)
}

/** The KV pool's shape for `numBlocks` blocks: one layer, which all layers share. */
export function encoderKvLayout({ numHeads, headDim }: EncoderSpec, numBlocks: number, blockSize: number): KvLayout {
  return { numBlocks, blockSize, layers: [{ numKvHeads: numHeads, headDim }] }
}

/**
 * Reads every weight onto the backend. @param source with the names of names.ts
 * @throws ModelError for a tensor that is missing or has another shape
 */
export async function loadEncoder(
  backend: Backend,
  spec: EncoderSpec,
  source: WeightSource,
  pooling: Pooling,
): Promise<Encoder> {
  const { hiddenSize, embeddingSize, numHeads, headDim } = spec
  const width = numHeads * headDim
  const parameters = new BackendParameters(backend, source, unpackedLoader(backend, source), { eps: 0, addsOne: false })
  const has = (name: string): boolean => parameters.has(name)
  const norm = async (name: string, length = hiddenSize): Promise<LayerNorm> => ({
    weight: backend.loadVector(name, await readVector(source, `${name}.weight`, length)),
    bias: has(`${name}.bias`)
      ? backend.loadVector(`${name}.bias`, await readVector(source, `${name}.bias`, length))
      : null,
    eps: spec.normEps,
  })
  const tokens = await parameters.matrix([['tokens', spec.vocabSize]], embeddingSize)
  const table = await placesOf(source, spec)
  const places = table === null ? null : await backend.loadMatrix('places', table.rows, embeddingSize, table.data)
  const ropes = spec.ropes.map(({ inverseFrequencies, attentionFactor }, i) =>
    backend.loadRope(`rope.${i}`, inverseFrequencies, attentionFactor),
  )
  if (has('layers.0.q_norm.weight'))
    throw new ModelError(`${source.path}: encoders that normalise queries and keys are not served`)
  const layers: Layer[] = []
  for (const [index, layer] of spec.layers.entries()) {
    const base = `layers.${index}.`
    const qkvParts: readonly Part[] = has(`${base}qkv.weight`)
      ? [[`${base}qkv`, 3 * width]]
      : [
          [`${base}q`, width],
          [`${base}k`, width],
          [`${base}v`, width],
        ]
    const isUnnormed = spec.normPlacement === 'pre' && index === 0 && !has(`${base}attention_norm.weight`)
    layers.push({
      spec: layer,
      rope: layer.rope === null ? null : (ropes[layer.rope] ?? null),
      qkv: await loadLinear(parameters, qkvParts, hiddenSize),
      output: await loadLinear(parameters, [[`${base}output`, hiddenSize]], width),
      // Loaded before the norm that precedes it: document indexes are found by the digest of the weights, which depends on the order of reading.
      mlp: await loadEncoderMlp(backend, parameters, spec, base, layer.hasExperts),
      attentionNorm: isUnnormed ? null : await norm(`${base}attention_norm`),
      mlpNorm: await norm(`${base}mlp_norm`),
    })
  }
  const weights: EncoderWeights = {
    tokens,
    places,
    projection:
      embeddingSize === hiddenSize
        ? null
        : {
            embedded: backend.createActivation('embedded', embeddingSize),
            layer: await loadLinear(parameters, [['embedding_projection', hiddenSize]], embeddingSize),
          },
    embeddingNorm: await norm('embedding_norm', spec.normsProjection ? hiddenSize : embeddingSize),
    layers,
    relative:
      spec.relative === null ? null : await loadRelative(backend, spec.relative, spec, spec.layers.length, source),
    finalNorm: spec.normPlacement === 'pre' ? await norm('final_norm') : null,
  }
  return new Encoder(backend, spec, weights, pooling)
}

/** [segments, positions, embedding size]: the sums of each segment's and each position's row; null: the model adds neither. */
async function placesOf(source: WeightSource, { positions, numSegments, embeddingSize: cols }: EncoderSpec) {
  const numPositions = positions?.count ?? 1
  if (positions === null && numSegments === 0) return null
  const read = async (name: string, rows: number): Promise<Float32Array> =>
    dequantize(await readMatrix(source, `${name}.weight`, rows, cols))
  const ofPositions = positions === null ? null : await read('positions', numPositions)
  const ofSegments = numSegments === 0 ? null : await read('segments', numSegments)
  const rows = Math.max(1, numSegments) * numPositions
  const values = new Float32Array(rows * cols)
  for (let row = 0; row < rows; row++) {
    const position = (row % numPositions) * cols
    const segment = Math.floor(row / numPositions) * cols
    for (let i = 0; i < cols; i++)
      values[row * cols + i] = (ofPositions?.[position + i] ?? 0) + (ofSegments?.[segment + i] ?? 0)
  }
  return { rows, data: { format: 'f32', values } as const }
}
