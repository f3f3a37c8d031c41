// Every kernel of a decode step and of a prefill chunk on the WebGPU backend, by itself: device time from timestamps around each dispatch, the
// bytes it has to move and the operations it has to do (each input and output once), and how much of the adapter's own roofline that is.
import { GREEDY } from '#dist/kernels/sampling.js'
import { createWebGpuBackend } from '#dist/kernels/webgpu/backend.js'
import { measureRoofline } from './roofline.mjs'

const BLOCK = 16
/** Calls of an op in a step, of which the average counts. */
const CALLS = 4

/** Rows of unrelated sequences (decode) or of one (prefill). */
function stepInput(sequences, stride) {
  const numRows = sequences.reduce((sum, { n }) => sum + n, 0)
  const input = {
    numRows,
    numSequences: sequences.length,
    tokens: Int32Array.from({ length: numRows }, (_, row) => row * 37),
    positions: new Int32Array(numRows),
    slots: new Int32Array(numRows),
    sequenceStarts: new Int32Array(sequences.length + 1),
    blockTables: Int32Array.from({ length: sequences.length * stride }, (_, i) => i),
    maxBlocksPerSequence: stride,
  }
  let row = 0
  for (const [s, { start, n }] of sequences.entries()) {
    input.sequenceStarts[s] = row
    for (let i = 0; i < n; i++, row++) {
      input.positions[row] = start + i
      input.slots[row] = s * stride * BLOCK + start + i
    }
  }
  input.sequenceStarts[sequences.length] = row
  return input
}

/** One layer and the head, with everything an op needs. */
async function loadLayer(backend, shape, format, weights, limits) {
  const { hidden, inner, heads, kvHeads, headDim, vocab } = shape
  const matrix = (label, rows, cols, use) => backend.loadMatrix(label, rows, cols, weights(format, rows, cols), use)
  const activation = (label, cols) => backend.createActivation(label, cols)
  const layer = {
    norm: { weight: backend.loadVector('norm', new Float32Array(hidden).fill(1)), eps: 1e-5 },
    head: await matrix('head', vocab, hidden),
    qkvWeights: await matrix('qkv', (heads + 2 * kvHeads) * headDim, hidden),
    outputWeights: await matrix('output', hidden, heads * headDim),
    gateUpWeights: await matrix('gateUp', 2 * inner, hidden, { glu: true }),
    downWeights: await matrix('down', hidden, inner),
    hidden: activation('hidden', hidden),
    branch: activation('branch', hidden),
    qkv: activation('qkv', (heads + 2 * kvHeads) * headDim),
    q: activation('q', heads * headDim),
    attended: activation('attended', heads * headDim),
    inner: activation('inner', inner),
    rope: backend.loadRope(
      'rope',
      Float64Array.from({ length: headDim / 2 }, (_, i) => 10000 ** ((-2 * i) / headDim)),
      1,
    ),
  }
  backend.createKvCache({
    numBlocks: limits.maxSequences * limits.maxBlocksPerSequence,
    blockSize: BLOCK,
    layers: [{ numKvHeads: kvHeads, headDim }],
  })
  await backend.ready()
  return layer
}

/**
 * The ops to measure, with the step they run in, and the bytes and operations of one call.
 * @param weightBytes bytes of a weight in the format
 */
function cases(backend, shape, layer, weightBytes, { rowCounts, context, prefill, isFirstFormat }) {
  const { hidden, heads, kvHeads, headDim, vocab } = shape
  const { norm } = layer
  const ofOneSequence = (n) => [{ start: 0, n }]
  const decode = (n) => Array.from({ length: n }, () => ({ start: context, n: 1 }))
  const linear = (name, w, out, x, options) =>
    rowCounts.map((rows) => ({
      name,
      shape: `${w.rows}x${w.cols}`,
      rows,
      sequences: ofOneSequence(rows),
      call: () => backend.linear(out, x, w, options),
      bytes: w.rows * w.cols * weightBytes + 4 * rows * (x.cols + out.cols),
      operations: 2 * w.rows * w.cols * rows,
    }))
  const all = [
    ...linear('qkv', layer.qkvWeights, layer.qkv, layer.hidden, { norm }),
    ...linear('output', layer.outputWeights, layer.hidden, layer.attended, { residual: true }),
    ...linear('gate and up', layer.gateUpWeights, layer.inner, layer.hidden, { norm, glu: 'silu' }),
    ...linear('down', layer.downWeights, layer.hidden, layer.inner, { residual: true }),
    ...[1, 16].map((rows) => ({
      name: 'embed',
      shape: `${vocab}x${hidden}`,
      rows,
      sequences: decode(rows),
      call: () => backend.embed(layer.hidden, layer.head, 1),
      bytes: rows * hidden * (weightBytes + 4),
      operations: 0,
    })),
    ...[1, 16].map((rows) => ({
      // Three kernels: the head's product, and the two of sampling.
      name: 'sample, greedy',
      shape: `${vocab}x${hidden}`,
      rows,
      sequences: decode(rows),
      once: true,
      call: () =>
        backend.sample(
          layer.hidden,
          layer.head,
          { norm, softcap: null, scale: 1 },
          Array.from({ length: rows }, (_, row) => ({ row, spec: GREEDY })),
        ),
      bytes: vocab * (hidden * weightBytes + 2 * 4 * rows),
      operations: 2 * vocab * hidden * rows,
    })),
  ]
  // The rest does not depend on the weights' format.
  if (!isFirstFormat) return all
  const headOptions = { layer: 0, numHeads: heads, numKvHeads: kvHeads, headDim }
  const attention = (name, sequences) => {
    const tokens = sequences.reduce((sum, { start, n }) => sum + start + n, 0)
    const pairs = sequences.reduce((sum, { start, n }) => sum + n * start + (n * (n + 1)) / 2, 0)
    const rows = sequences.reduce((sum, { n }) => sum + n, 0)
    return {
      name,
      shape: `${heads}/${kvHeads}x${headDim}`,
      rows,
      sequences,
      hasWeights: false,
      call: () =>
        backend.attention(layer.attended, layer.q, {
          ...headOptions,
          scale: headDim ** -0.5,
          window: null,
          softcap: null,
        }),
      bytes: 2 * 2 * tokens * kvHeads * headDim + 2 * 4 * rows * heads * headDim,
      operations: 4 * pairs * heads * headDim,
    }
  }
  return [
    ...all,
    attention(`attention, context ${context}`, decode(1)),
    attention(`attention, context ${context}`, decode(16)),
    attention('attention, prefill', ofOneSequence(prefill)),
    ...[1, 16, prefill].map((rows) => ({
      name: 'qkv, rope, store',
      shape: `${heads}/${kvHeads}x${headDim}`,
      rows,
      sequences: ofOneSequence(rows),
      hasWeights: false,
      call: () => backend.qkvRopeStore(layer.q, layer.qkv, { ...headOptions, qkNorm: null, rope: layer.rope }),
      bytes: rows * headDim * (4 * (2 * heads + 2 * kvHeads) + 2 * 2 * kvHeads),
      operations: 3 * rows * headDim * (heads + kvHeads),
    })),
    ...[1, prefill].map((rows) => ({
      name: 'norm, add',
      shape: `${hidden}`,
      rows,
      sequences: ofOneSequence(rows),
      hasWeights: false,
      call: () => backend.normAdd(layer.hidden, layer.branch, norm),
      bytes: 4 * hidden * (3 * rows + 1),
      operations: 5 * rows * hidden,
    })),
  ]
}

/**
 * @param weights (format, rows, cols) => data of a matrix
 * @param context tokens before a decode row
 * @returns the backend's info, the roofline (the best of one measurement a format) and the rows of the table
 */
export async function benchWebGpuKernels({ shape, formats, rowCounts, context, rounds, weights, bytesOf }) {
  const limits = {
    maxRows: 512,
    maxSequences: 16,
    maxSampleRows: 16,
    maxBlocksPerSequence: Math.ceil((Math.max(context, 512) + 1) / BLOCK),
  }
  /** @type {any} */
  let info = null
  const rooflines = []
  const measured = []
  for (const [index, format] of formats.entries()) {
    const options = { limits, traceKernels: true }
    const backend = await createWebGpuBackend(options)
    try {
      if (!backend.info.hasTimestamps) throw new Error(`${backend.info.adapter} has no timestamp queries`)
      info ??= backend.info
      rooflines.push(await measureRoofline(backend.device, backend.info.isSoftware, rounds))
      const layer = await loadLayer(backend, shape, format, weights, limits)
      const prefill = backend.info.isSoftware ? 64 : 512
      const all = cases(backend, shape, layer, bytesOf[format], {
        rowCounts: rowCounts ?? [1, 4, prefill],
        context,
        prefill,
        isFirstFormat: index === 0,
      })
      for (const { name, shape: dimensions, rows, sequences, call, once, hasWeights, bytes, operations } of all) {
        const input = stepInput(sequences, limits.maxBlocksPerSequence)
        const calls = once === true ? 1 : CALLS
        let micros = Infinity
        let names = ''
        for (let round = 0; round <= rounds; round++) {
          backend.beginStep(input)
          for (let i = 0; i < calls; i++) call()
          const kernels = (await backend.endStep()).kernels ?? []
          micros = Math.min(micros, kernels.reduce((sum, kernel) => sum + kernel.micros, 0) / calls)
          names = kernels.map(({ kernel }) => kernel).join(' + ')
        }
        measured.push({
          bytes,
          operations,
          row: {
            format: hasWeights === false ? '-' : format,
            op: name,
            kernel: names,
            shape: dimensions,
            rows,
            micros,
          },
        })
      }
    } finally {
      await backend.close()
    }
  }
  const best = (key) => Math.max(...rooflines.map((roofline) => roofline[key]))
  const roofline = {
    gigabytesPerSecond: best('gigabytesPerSecond'),
    gigaflopsPerSecond: best('gigaflopsPerSecond'),
  }
  return { info, roofline, kernels: measured.map((kernel) => withRoofline(kernel, roofline)) }
}

/** A row of the table. */
function withRoofline({ row, bytes, operations }, { gigabytesPerSecond, gigaflopsPerSecond }) {
  const memoryMicros = bytes / gigabytesPerSecond / 1e3
  const computeMicros = operations / gigaflopsPerSecond / 1e3
  return {
    ...row,
    micros: Number(row.micros.toFixed(1)),
    'GB/s': Number((bytes / row.micros / 1e3).toFixed(2)),
    'GFLOP/s': Number((operations / row.micros / 1e3).toFixed(2)),
    '% of roofline': Number(((100 * Math.max(memoryMicros, computeMicros)) / row.micros).toFixed(1)),
    'bound by': memoryMicros > computeMicros ? 'memory' : 'compute',
  }
}
