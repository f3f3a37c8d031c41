/** The forward pass of an encoder, written once against the op vocabulary: whole sequences in, one pooled row of each out. */
import { dequantize } from '../../../kernels/dequantize.ts'
import type { Backend, OpSequence } from '../../../kernels/backend.ts'
import type { Activation, KvLayout, LayerNorm, Matrix, Pooling, RopeTable, Vector } from '../../../kernels/ops.ts'
import { unpackedLoader } from '../../weights/packed-cache.ts'
import { readMatrix, readVector, type WeightSource } from '../../weights/source.ts'
import { expectLinear, Parameters, type Part } from '../parameters.ts'
import type { EncoderLayerSpec, EncoderSpec } from './spec.ts'

interface Layer {
  readonly spec: EncoderLayerSpec
  readonly rope: RopeTable | null
  readonly qkv: Matrix // [3 hidden, hidden]
  readonly qkvBias: Vector | undefined
  readonly output: Matrix // [hidden, hidden]
  readonly outputBias: Vector | undefined
  /** Null: none, as before ModernBERT's first attention. */
  readonly attentionNorm: LayerNorm | null
  readonly up: Matrix // [intermediate or, gated, 2 intermediate, hidden]
  readonly upBias: Vector | undefined
  readonly down: Matrix // [hidden, intermediate]
  readonly downBias: Vector | undefined
  readonly mlpNorm: LayerNorm
}

interface EncoderWeights {
  readonly tokens: Matrix // [vocabulary, hidden]
  /** [places, hidden]: what is added for position and segment; null: nothing. */
  readonly places: Matrix | null
  readonly embeddingNorm: LayerNorm | null
  readonly layers: readonly Layer[]
  readonly finalNorm: LayerNorm | null
}

class Encoder {
  readonly #backend: Backend
  readonly #ops: OpSequence

  /** Records the ops of a step, with the pooling at its end. */
  constructor(backend: Backend, spec: EncoderSpec, weights: EncoderWeights, pooling: Pooling) {
    const { hiddenSize, intermediateSize, numHeads, headDim } = spec
    this.#backend = backend
    const buffers = {
      hidden: backend.createActivation('hidden', hiddenSize), // the residual stream
      normed: spec.normPlacement === 'pre' ? backend.createActivation('normed', hiddenSize) : null,
      qkv: backend.createActivation('qkv', 3 * numHeads * headDim),
      q: backend.createActivation('q', numHeads * headDim),
      attended: backend.createActivation('attended', numHeads * headDim),
      inner: backend.createActivation('inner', intermediateSize),
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
  readonly inner: Activation
}

function record(
  backend: Backend,
  spec: EncoderSpec,
  weights: EncoderWeights,
  { hidden, normed, qkv, q, attended, inner }: Buffers,
  pooling: Pooling,
): void {
  const { numHeads, headDim, activation, isGated } = spec
  backend.embed(hidden, weights.tokens, 1)
  if (weights.places !== null) backend.embedAdd(hidden, weights.places)
  if (weights.embeddingNorm !== null) backend.layerNorm(hidden, hidden, weights.embeddingNorm)
  /** What a block reads: the stream itself, or the stream normalised. */
  const inputOf = (norm: LayerNorm | null): Activation => {
    if (normed === null || norm === null) return hidden
    backend.layerNorm(normed, hidden, norm)
    return normed
  }
  for (const layer of weights.layers) {
    const { attentionNorm, mlpNorm } = layer
    // A layer's keys and values are read in this layer only: one layer's room serves all.
    const shape = { layer: 0, numHeads, numKvHeads: numHeads, headDim }
    backend.linear(qkv, inputOf(attentionNorm), layer.qkv, { bias: layer.qkvBias })
    backend.qkvRopeStore(q, qkv, { ...shape, qkNorm: null, rope: layer.rope })
    const scope = { window: layer.spec.window, softcap: null, bidirectional: true }
    backend.attention(attended, q, { ...shape, scale: headDim ** -0.5, ...scope })
    backend.linear(hidden, attended, layer.output, { bias: layer.outputBias, residual: true })
    if (normed === null && attentionNorm !== null) backend.layerNorm(hidden, hidden, attentionNorm)
    const applied = isGated ? { glu: activation } : { activation }
    backend.linear(inner, inputOf(mlpNorm), layer.up, { bias: layer.upBias, ...applied })
    backend.linear(hidden, inner, layer.down, { bias: layer.downBias, residual: true })
    if (normed === null) backend.layerNorm(hidden, hidden, mlpNorm)
  }
  if (weights.finalNorm !== null) backend.layerNorm(hidden, hidden, weights.finalNorm)
  backend.pool(hidden, pooling)
}

/** The pool for `numTokens` tokens of one layer, in at most `numSequences` sequences. */
export function encoderKvLayout({ numHeads, headDim }: EncoderSpec, numBlocks: number, blockSize: number): KvLayout {
  return { numBlocks, blockSize, layers: [{ numKvHeads: numHeads, headDim }] }
}

/** Reads every weight into the backend. `source`: under our names (names.ts). Throws ModelError for a missing or misshapen tensor. */
export async function loadEncoder(
  backend: Backend,
  spec: EncoderSpec,
  source: WeightSource,
  pooling: Pooling,
): Promise<Encoder> {
  const { hiddenSize, intermediateSize, numHeads, headDim } = spec
  const width = numHeads * headDim
  const parameters = new Parameters(backend, source, unpackedLoader(backend, source), { eps: 0, addsOne: false })
  const has = (name: string): boolean => source.tensors.has(name)
  const linear = async (parts: readonly Part[], cols: number, glu = false) => {
    const [[first = ''] = []] = parts
    const hasBias = has(`${first}.bias`)
    expectLinear(source, parts, cols, hasBias)
    return { matrix: await parameters.matrix(parts, cols, { glu }), bias: await parameters.bias(hasBias, parts) }
  }
  const norm = async (name: string): Promise<LayerNorm> => ({
    weight: backend.loadVector(name, await readVector(source, `${name}.weight`, hiddenSize)),
    bias: has(`${name}.bias`)
      ? backend.loadVector(`${name}.bias`, await readVector(source, `${name}.bias`, hiddenSize))
      : null,
    eps: spec.normEps,
  })
  const tokens = await parameters.matrix([['tokens', spec.vocabSize]], hiddenSize)
  const table = await placesOf(source, spec)
  const places = table === null ? null : await backend.loadMatrix('places', table.rows, hiddenSize, table.data)
  const ropes = spec.ropes.map(({ inverseFrequencies, attentionFactor }, i) =>
    backend.loadRope(`rope.${i}`, inverseFrequencies, attentionFactor),
  )
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
    const upParts: readonly Part[] = !spec.isGated
      ? [[`${base}up`, intermediateSize]]
      : has(`${base}gate_up.weight`)
        ? [[`${base}gate_up`, 2 * intermediateSize]]
        : [
            [`${base}gate`, intermediateSize],
            [`${base}up`, intermediateSize],
          ]
    const qkv = await linear(qkvParts, hiddenSize)
    const output = await linear([[`${base}output`, hiddenSize]], width)
    const up = await linear(upParts, hiddenSize, spec.isGated)
    const down = await linear([[`${base}down`, hiddenSize]], intermediateSize)
    const isUnnormed = spec.normPlacement === 'pre' && index === 0 && !has(`${base}attention_norm.weight`)
    layers.push({
      spec: layer,
      rope: layer.rope === null ? null : (ropes[layer.rope] ?? null),
      qkv: qkv.matrix,
      qkvBias: qkv.bias,
      output: output.matrix,
      outputBias: output.bias,
      attentionNorm: isUnnormed ? null : await norm(`${base}attention_norm`),
      up: up.matrix,
      upBias: up.bias,
      down: down.matrix,
      downBias: down.bias,
      mlpNorm: await norm(`${base}mlp_norm`),
    })
  }
  const weights: EncoderWeights = {
    tokens,
    places,
    embeddingNorm: await norm('embedding_norm'),
    layers,
    finalNorm: spec.normPlacement === 'pre' ? await norm('final_norm') : null,
  }
  return new Encoder(backend, spec, weights, pooling)
}

/** The sum of each segment's and each position's row, [segments, positions, hidden]; null: the model adds neither. */
async function placesOf(source: WeightSource, { positions, numSegments, hiddenSize }: EncoderSpec) {
  const numPositions = positions?.count ?? 1
  if (positions === null && numSegments === 0) return null
  const read = async (name: string, rows: number): Promise<Float32Array> =>
    dequantize(await readMatrix(source, `${name}.weight`, rows, hiddenSize))
  const ofPositions = positions === null ? null : await read('positions', numPositions)
  const ofSegments = numSegments === 0 ? null : await read('segments', numSegments)
  const rows = Math.max(1, numSegments) * numPositions
  const values = new Float32Array(rows * hiddenSize)
  for (let row = 0; row < rows; row++) {
    const position = (row % numPositions) * hiddenSize
    const segment = Math.floor(row / numPositions) * hiddenSize
    for (let i = 0; i < hiddenSize; i++)
      values[row * hiddenSize + i] = (ofPositions?.[position + i] ?? 0) + (ofSegments?.[segment + i] ?? 0)
  }
  return { rows, data: { format: 'f32', values } as const }
}
