// Models of real shapes on a GPU that is not there (absent-gpu.mjs), loaded by the engine's own code but without weights: which kernels they need,
// what a step dispatches and reads.
import { readFileSync } from 'node:fs'
import { loadDecoder } from '#dist/engine/runner/decoder.js'
import { encoderKvLayout, loadEncoder } from '#dist/engine/runner/encoder/encoder.js'
import { isEncoder, parseEncoderSpec } from '#dist/engine/runner/encoder/spec.js'
import { kvLayout, stateLayout } from '#dist/engine/runner/memory-layout.js'
import { parseSpec } from '#dist/engine/runner/spec.js'
import { WebGpuBackend } from '#dist/kernels/webgpu/backend.js'
import { formOf, plan } from '#dist/kernels/webgpu/matrix.js'
import { AbsentGpu } from './absent-gpu.mjs'

/** config.json of each model, as far as its shape goes. */
export const MODELS = JSON.parse(readFileSync(new URL('./models.json', import.meta.url), 'utf8'))

/** Storage forms of weights: format, group, minimums. Those of GGUF: Q4_K has minimums, Q6_K groups of 16. */
export const WEIGHTS = {
  f32: ['f32', 32, false],
  f16: ['f16', 32, false],
  q8: ['q8', 32, false],
  'q8 mins': ['q8', 32, true],
  'q8 g16': ['q8', 16, false],
  'q8 g16 mins': ['q8', 16, true],
  q4: ['q4', 32, false],
  'q4 mins': ['q4', 32, true],
  mxfp4: ['mxfp4', 32, false],
}

const BLOCK_SIZE = 16
/** Of an encoder's table of tokens: no kernel depends on it, and its rows are packed one by one. */
const ENCODER_VOCABULARY = 1024

/** Every tensor that is asked for, with zeros. A checkpoint's names are found by asking: what is missing is said with its shape. */
async function withTensors(has, load) {
  const tensors = new Map()
  tensors.has = has
  const zeros = (name) => tensors.get(name).shape.reduce((product, size) => product * size, 1)
  const source = {
    path: 'absent',
    tensors,
    identity: 'absent',
    totalBytes: 0,
    read: (name) => Promise.resolve({ format: 'f16', values: new Uint16Array(zeros(name)) }),
    rows: () => null,
    close: () => Promise.resolve(),
  }
  for (;;) {
    try {
      return await load(source)
    } catch (error) {
      const [, name, shape] = /tensor (\S+) \[([\d, ]+)\] is missing/.exec(error.message) ?? []
      if (name === undefined || tensors.get(name) !== undefined) throw error
      tensors.set(name, { name, dtype: 'F16', shape: shape.split(', ').map(Number), bytes: 0 })
    }
  }
}

/** Hands out matrices without bytes, one for all of a shape, and counts what a token reads of them. */
class AbsentWeights {
  /** Bytes of matrices that every token is multiplied with, and of a token's own experts. */
  sharedBytes = 0
  expertBytes = 0

  constructor(backend, maxBindingBytes, weights) {
    this.backend = backend
    this.maxBindingBytes = maxBindingBytes
    this.weights = WEIGHTS[weights]
    this.topK = 0
    this.known = new Map()
  }

  #stored(label, rows, cols, use, [format, group, hasMins] = this.weights) {
    const form = formOf(format, group, hasMins)
    const { shards } = plan(this, label, rows, cols, form, use.glu === true)
    const planeBytes = shards.flatMap(({ bytes }) => bytes)
    return { format, form: { ...form, shift: 1 }, planeBytes, read: () => Promise.resolve() }
  }

  #once(key, make) {
    const known = this.known.get(key) ?? make()
    this.known.set(key, known)
    return known
  }

  matrix(label, rows, cols, use) {
    // Models of experts in MXFP4 have the rest in 16 bits.
    const isAround = this.topK > 0 && this.weights === WEIGHTS.mxfp4
    const stored = this.#stored(label, rows, cols, use, isAround ? WEIGHTS.f16 : this.weights)
    if (!label.endsWith('embed_tokens')) this.sharedBytes += stored.planeBytes.reduce((sum, n) => sum + n, 0)
    const key = [rows, cols, use.glu === true].join()
    return this.#once(key, () => this.backend.importMatrix(label, rows, cols, stored, use))
  }

  experts(label, numExperts, rows, cols, use) {
    const stored = this.#stored(label, rows, cols, use)
    this.expertBytes += this.topK * stored.planeBytes.reduce((sum, n) => sum + n, 0)
    const key = [numExperts, rows, cols, use.glu === true].join()
    return this.#once(key, () => this.backend.importExperts(label, numExperts, rows, cols, () => stored, use))
  }

  vector(name, length) {
    return Promise.resolve(new Float32Array(length))
  }
}

async function step(gpu, backend, input, forward) {
  const before = gpu.submissions.length
  backend.beginStep(input)
  forward()
  await backend.endStep()
  return gpu.submissions.slice(before)
}

/**
 * A model's decoder, ready for steps of up to `rows` rows.
 * @param config of models.json
 * @param weights of WEIGHTS
 */
async function loadAbsentDecoder(config, weights, { limits, rows, context, sequences, kvFormat }) {
  const spec = parseSpec('config.json', config, null)
  const gpu = new AbsentGpu(limits)
  const backendLimits = {
    maxRows: rows,
    maxSequences: sequences,
    maxSampleRows: sequences,
    maxBlocksPerSequence: Math.ceil(context / BLOCK_SIZE),
  }
  const backend = new WebGpuBackend({ limits: backendLimits, traceKernels: false, kvFormat }, gpu)
  const loader = new AbsentWeights(backend, gpu.capabilities.maxBindingBytes, weights)
  loader.topK = spec.layers.find(({ mlp }) => 'topK' in mlp)?.mlp.topK ?? 0
  // Experts stacked in one tensor, and what Qwen3-Next joins apart, as Qwen3.5 has it.
  const has = (name) => !/experts\.0\.|in_proj_qkvz|in_proj_ba\./.test(name)
  const decoder = await withTensors(has, (source) => loadDecoder(backend, spec, source, { weights: loader }))
  // The table of a head of its own is read for one row; a tied one is the head too.
  if (spec.tiesEmbeddings) loader.matrix('head', spec.vocabSize, spec.hiddenSize, {})
  const layout = kvLayout(spec, 1, BLOCK_SIZE)
  const numBlocks = Math.min(sequences * backendLimits.maxBlocksPerSequence, backend.maxKvBlocks(layout))
  backend.createKvCache({ ...layout, numBlocks })
  const states = stateLayout(spec, 1)
  const numSlots = states === null ? 0 : Math.min(2 * sequences, backend.maxStateSlots(states))
  if (states !== null) backend.createStatePool({ ...states, numSlots })
  await backend.ready()
  const run = (input, samples = [], scores = []) =>
    step(gpu, backend, input, () => {
      decoder.layers(input)
      decoder.outputs(samples, scores)
    })
  const kvBytes = backend.kvBlockBytes(layout) / BLOCK_SIZE
  return { spec, gpu, numBlocks, sharedBytes: loader.sharedBytes, expertBytes: loader.expertBytes, kvBytes, run }
}

async function loadAbsentEncoder(config, { limits, rows, sequences }) {
  const spec = parseEncoderSpec('config.json', { ...config, vocab_size: ENCODER_VOCABULARY })
  // Layers of a kind are alike.
  const kinds = new Map(spec.layers.map((layer) => [JSON.stringify(layer), layer]))
  const own = { ...spec, layers: [...kinds.values()] }
  const isModern = config.model_type === 'modernbert'
  const has = (name) =>
    !name.endsWith('q_norm.weight') && !name.endsWith('up_gate.weight') && (!name.endsWith('qkv.weight') || isModern)
  const withBias = (name) => (name.endsWith('.bias') ? !isModern : name.endsWith('gate_up.weight') || has(name))
  const maxBlocksPerSequence = Math.ceil(spec.maxTokens / BLOCK_SIZE)
  const loaded = await withTensors(withBias, async (source) => {
    const gpu = new AbsentGpu(limits)
    const backendLimits = { maxRows: rows, maxSequences: sequences, maxSampleRows: 1, maxBlocksPerSequence }
    const backend = new WebGpuBackend({ limits: backendLimits, traceKernels: false }, gpu)
    return { gpu, backend, encoder: await loadEncoder(backend, own, source, 'mean') }
  })
  const { gpu, backend, encoder } = loaded
  const numBlocks = Math.ceil(rows / BLOCK_SIZE) + sequences
  backend.createKvCache(encoderKvLayout(own, numBlocks, BLOCK_SIZE))
  await backend.ready()
  const run = (input) =>
    step(gpu, backend, { ...input, places: new Int32Array(input.numRows) }, () => encoder.forward())
  return { spec: null, gpu, numBlocks, sharedBytes: 0, expertBytes: 0, kvBytes: 0, run }
}

/**
 * Loads a model of MODELS without its weights.
 * @param {string} name
 * @param {string} weights of WEIGHTS; encoders have f16
 */
export function loadAbsentModel(name, weights, options = {}) {
  const config = MODELS[name]
  if (config === undefined) throw new Error(`${name}: one of ${Object.keys(MODELS).join(', ')}`)
  const all = { limits: undefined, rows: 2048, context: 8192, sequences: 16, kvFormat: undefined, ...options }
  return isEncoder(config) ? loadAbsentEncoder(config, all) : loadAbsentDecoder(config, weights, all)
}

/** A step of `sequences` of [first position, tokens], each in blocks of its own as far as there are any. */
export function absentStep(model, sequences) {
  const numRows = sequences.reduce((sum, [, tokens]) => sum + tokens, 0)
  const stride = Math.max(...sequences.map(([start, tokens]) => Math.ceil((start + tokens) / BLOCK_SIZE)))
  const input = {
    numRows,
    numSequences: sequences.length,
    tokens: new Int32Array(numRows),
    positions: new Int32Array(numRows),
    slots: new Int32Array(numRows),
    sequenceStarts: new Int32Array(sequences.length + 1),
    blockTables: Int32Array.from({ length: sequences.length * stride }, (_, i) => i % model.numBlocks),
    maxBlocksPerSequence: stride,
    stateSlots: Int32Array.from({ length: 2 * sequences.length }, (_, i) => (i % 2 === 0 ? -1 : i >> 1)),
  }
  let row = 0
  for (const [index, [start, tokens]] of sequences.entries()) {
    for (let i = 0; i < tokens; i++) input.positions[row++] = start + i
    input.sequenceStarts[index + 1] = row
  }
  return input
}

/** A GPU that compiled the ops of adapters, which come beside any model. */
async function absentAdapters() {
  const [width, rank] = [2048, 16]
  const gpu = new AbsentGpu()
  const limits = { maxRows: 64, maxSequences: 16, maxSampleRows: 16, maxBlocksPerSequence: 64 }
  const backend = new WebGpuBackend({ limits, traceKernels: false }, gpu)
  const [x, out, activated] = ['x', 'out', 'activated'].map((label) => backend.createActivation(label, width))
  const [down, up] = [new Float32Array(rank * width), new Float32Array(width * rank)]
  const update = backend.loadLowRank('update', width, width, [[{ firstRow: 0, rows: width, rank, down, up }]])
  const norm = { weight: backend.loadVector('norm', new Float32Array(width)), eps: 1e-5 }
  const ops = () => {
    backend.addLowRank(out, x, update)
    backend.addLowRank(out, x, update, norm)
    backend.activate(activated, out, { activation: 'silu' })
  }
  backend.record('adapters', ops, null)
  backend.createKvCache({ numBlocks: 64, blockSize: BLOCK_SIZE, layers: [{ numKvHeads: 1, headDim: 64 }] })
  await backend.ready()
  return gpu
}

/** What a kernel may need of a GPU is bounded by its kind; `other` ones are small. */
function kindOf(name) {
  if (name === 'linear-vector') return 'gemv'
  if (name === 'linear-matrix') return 'gemm'
  return name === 'attention' ? 'attention' : 'other'
}

/**
 * Every kernel that the models launch on a card, with the models that do: in each form of weights, and with K and V in f16 and in q8.
 * @param {readonly string[]} models of MODELS
 * @param {readonly string[]} weights of WEIGHTS
 */
export async function absentKernels(models, weights) {
  const found = new Map()
  const keep = (gpu, model) => {
    for (const [label, text] of gpu.kernels) {
      const [kernel, ...defines] = label.split(' ')
      const known = found.get(label) ?? { kernel, kind: kindOf(kernel), defines: defines.join(' '), text, models: [] }
      if (!known.models.includes(model)) known.models.push(model)
      found.set(label, known)
    }
  }
  for (const model of models) {
    for (const [i, form] of weights.entries()) {
      for (const kvFormat of i === 0 ? ['f16', 'q8'] : ['f16']) {
        keep((await loadAbsentModel(model, form, { kvFormat })).gpu, model)
      }
    }
  }
  keep(await absentAdapters(), 'adapters')
  return [...found.values()]
}
