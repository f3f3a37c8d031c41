#!/usr/bin/env node
// `npm run bench -- kernels [--device webgpu|cpu] [--format f16] [--shape smollm2-135m] [--rows 1,8,64] [--layers 4] [--threads 1]`
// Each linear shape of a model on the WebGPU backend: device time, GB/s of weights, GFLOP/s, and percent of what the adapter itself reaches in
// the same process (a streaming read and an fma kernel). Then whole steps by kernel, host encode time, dispatches, and two steps in flight.
import { mkdirSync, writeFileSync } from 'node:fs'
import { cpus, loadavg } from 'node:os'
import { parseArgs } from 'node:util'
import { benchCpuKernels } from './_kernels-cpu.mjs'
import { GREEDY } from '../dist/kernels/sampling.js'
import { createWebGpuBackend } from '../dist/kernels/webgpu/backend.js'

const SHAPES = {
  'smollm2-135m': { layers: 30, hidden: 576, inner: 1536, heads: 9, kvHeads: 3, headDim: 64, vocab: 49152 },
  'qwen2.5-0.5b': { layers: 24, hidden: 896, inner: 4864, heads: 14, kvHeads: 2, headDim: 64, vocab: 151936 },
  'llama-3.2-1b': { layers: 16, hidden: 2048, inner: 8192, heads: 32, kvHeads: 8, headDim: 64, vocab: 128256 },
}
const { values: flags } = parseArgs({
  options: {
    device: { type: 'string', default: 'webgpu' },
    threads: { type: 'string', default: '1' },
    format: { type: 'string', default: 'f16,q8,q4' },
    shape: { type: 'string', default: 'smollm2-135m' },
    rows: { type: 'string' },
    layers: { type: 'string' },
    context: { type: 'string', default: '128' },
    rounds: { type: 'string', default: '5' },
    'no-step': { type: 'boolean', default: false },
  },
})
const shape = SHAPES[flags.shape]
if (shape === undefined) throw new Error(`--shape ${flags.shape}: one of ${Object.keys(SHAPES).join(', ')}`)
const rounds = Number(flags.rounds)
const context = Number(flags.context)
const BLOCK = 16
const limits = {
  maxRows: 512,
  maxSequences: 16,
  maxSampleRows: 16,
  maxBlocksPerSequence: Math.ceil((context + 640) / BLOCK),
}
const open = (traceKernels) =>
  createWebGpuBackend({
    limits,
    kernelSet: 'invariant',
    traceKernels,
    cacheDir: process.env.MINISERVE_CACHE_DIR ?? null,
    retune: false,
  })

/** Random weights; cheap to make, never denormal. */
function weights(format, rows, cols) {
  const words = new Uint32Array((rows * cols) / 4)
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i + 1, 0x9e3779b1)
  const bytes = words.buffer
  const scales = () => new Float32Array((rows * cols) / 32).fill(1 / 1024)
  if (format === 'q8') return { format, group: 32, codes: new Int8Array(bytes), scales: scales(), mins: null }
  if (format === 'q4')
    return { format, group: 32, codes: new Uint8Array(bytes, 0, (rows * cols) / 2), scales: scales(), mins: null }
  if (format === 'f16') {
    const halves = new Uint16Array(rows * cols)
    for (let i = 0; i < halves.length; i++) halves[i] = (Math.imul(i + 1, 0x9e37) & 0x83ff) | 0x2400
    return { format, values: halves }
  }
  return { format, values: new Float32Array(rows * cols).fill(0.01) }
}

const bytesOf = { f32: 4, f16: 2, q8: 1 + 2 / 32, q4: 0.5 + 2 / 32 }

// -- the adapter's own limits ----------------------------------------------------------------------------------------------
const STREAM = (lanes) => `
@group(0) @binding(0) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@compute @workgroup_size(${lanes}) fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  var sum = vec4<u32>(0u);
  for (var i = 0u; i < 64u; i++) {
    let at = (group.x * 64u + i) * ${4 * lanes}u + lane;
    sum ^= data[at] ^ data[at + ${lanes}u] ^ data[at + ${2 * lanes}u] ^ data[at + ${3 * lanes}u];
  }
  out[group.x * ${lanes}u + lane] = sum.x ^ sum.y ^ sum.z ^ sum.w;
}`
const FMA = (lanes) => `
@group(0) @binding(0) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@compute @workgroup_size(${lanes}) fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let f = 1.0 + f32(lane) * 1e-7;
  ${Array.from({ length: 8 }, (_, i) => `var a${i} = vec4<f32>(${i}.5);`).join(' ')}
  for (var i = 0u; i < 256u + data[0].x % 2u; i++) {
    ${Array.from({ length: 8 }, (_, i) => `a${i} = fma(a${i}, vec4<f32>(f), vec4<f32>(0.25));`).join(' ')}
  }
  let sum = a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7;
  out[group.x * ${lanes}u + lane] = bitcast<u32>(sum.x + sum.y + sum.z + sum.w);
}`

async function rooflines(device, isSoftware) {
  const lanes = isSoftware ? 8 : 256
  const bytes = isSoftware ? 64 << 20 : 1 << 30
  const streamGroups = bytes / (256 * lanes * 16)
  const fmaGroups = isSoftware ? 4096 : 16384
  const data = device.createBuffer({
    size: Math.min(bytes, device.limits.maxStorageBufferBindingSize),
    usage: GPUBufferUsage.STORAGE,
  })
  const out = device.createBuffer({
    size: Math.max(streamGroups, fmaGroups) * lanes * 4,
    usage: GPUBufferUsage.STORAGE,
  })
  const best = async (code, groups) => {
    const pipeline = device.createComputePipeline({
      layout: 'auto',
      compute: { module: device.createShaderModule({ code }) },
    })
    const group = device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [data, out].map((buffer, binding) => ({ binding, resource: { buffer } })),
    })
    let seconds = Infinity
    for (let round = 0; round < rounds + 1; round++) {
      const encoder = device.createCommandEncoder()
      const pass = encoder.beginComputePass()
      pass.setPipeline(pipeline)
      pass.setBindGroup(0, group)
      pass.dispatchWorkgroups(groups)
      pass.end()
      const started = performance.now()
      device.queue.submit([encoder.finish()])
      await device.queue.onSubmittedWorkDone()
      seconds = Math.min(seconds, (performance.now() - started) / 1000)
    }
    return seconds
  }
  const streamed = Math.min(streamGroups, Math.floor(data.size / (256 * lanes * 16)))
  const gbps = (streamed * 256 * lanes * 16) / (await best(STREAM(lanes), streamed)) / 1e9
  const gflops = (fmaGroups * lanes * 256 * 32 * 2) / (await best(FMA(lanes), fmaGroups)) / 1e9
  data.destroy()
  out.destroy()
  return { gbps, gflops }
}

// -- steps ----------------------------------------------------------------------------------------------------------------
function stepInput(sequences) {
  const numRows = sequences.reduce((sum, { n }) => sum + n, 0)
  const stride = limits.maxBlocksPerSequence
  const input = {
    numRows,
    numSequences: sequences.length,
    tokens: new Int32Array(numRows),
    positions: new Int32Array(numRows),
    slots: new Int32Array(numRows),
    sequenceStarts: new Int32Array(sequences.length + 1),
    blockTables: new Int32Array(sequences.length * stride),
    maxBlocksPerSequence: stride,
  }
  let row = 0
  for (const [s, { start, n, previous }] of sequences.entries()) {
    input.sequenceStarts[s] = row
    for (let i = 0; i < stride; i++) input.blockTables[s * stride + i] = s * stride + i
    for (let i = 0; i < n; i++, row++) {
      input.tokens[row] = previous === true ? -(s + 1) : (row * 37) % shape.vocab
      input.positions[row] = start + i
      input.slots[row] = s * stride * BLOCK + start + i
    }
  }
  input.sequenceStarts[sequences.length] = row
  return input
}

async function loadModel(backend, format, layers) {
  const { hidden, inner, heads, kvHeads, headDim, vocab } = shape
  const matrix = (label, rows, cols, use) => backend.loadMatrix(label, rows, cols, weights(format, rows, cols), use)
  const norm = { weight: backend.loadVector('norm', new Float32Array(hidden).fill(1)), eps: 1e-5 }
  const embedding = await matrix('embedding', vocab, hidden)
  const stack = []
  for (let layer = 0; layer < layers; layer++) {
    stack.push({
      qkv: await matrix('qkv', (heads + 2 * kvHeads) * headDim, hidden),
      output: await matrix('output', hidden, heads * headDim),
      gateUp: await matrix('gateUp', 2 * inner, hidden, { glu: true }),
      down: await matrix('down', hidden, inner),
    })
  }
  const activation = (label, cols) => backend.createActivation(label, cols)
  const h = activation('hidden', hidden)
  const qkv = activation('qkv', (heads + 2 * kvHeads) * headDim)
  const q = activation('q', heads * headDim)
  const attended = activation('attended', heads * headDim)
  const wide = activation('inner', inner)
  const rope = backend.loadRope(
    'rope',
    Float64Array.from({ length: headDim / 2 }, (_, i) => 10000 ** ((-2 * i) / headDim)),
    1,
  )
  backend.createKvCache({
    numLayers: layers,
    numBlocks: 16 * limits.maxBlocksPerSequence,
    blockSize: BLOCK,
    numKvHeads: kvHeads,
    headDim,
  })
  await backend.ready()
  const heads3 = { numHeads: heads, numKvHeads: kvHeads, headDim }
  let encodeMs = 0
  return {
    stack,
    norm,
    h,
    wide,
    qkv,
    attended,
    encodeMs: () => encodeMs,
    step(sequences) {
      const input = stepInput(sequences)
      const started = performance.now()
      backend.beginStep(input)
      backend.embed(h, embedding, 1)
      for (const [layer, w] of stack.entries()) {
        backend.linear(qkv, h, w.qkv, { norm })
        backend.qkvRopeStore(q, qkv, { layer, ...heads3, qkNorm: null, rope })
        backend.attention(attended, q, { layer, ...heads3, scale: headDim ** -0.5, window: null, softcap: null })
        backend.linear(h, attended, w.output, { residual: true })
        backend.linear(wide, h, w.gateUp, { norm, glu: 'silu' })
        backend.linear(h, wide, w.down, { residual: true })
      }
      backend.sample(
        h,
        embedding,
        { norm, softcap: null, scale: 1 },
        sequences.map((_, s) => ({ row: input.sequenceStarts[s + 1] - 1, spec: GREEDY })),
      )
      const ended = backend.endStep()
      encodeMs = performance.now() - started
      return ended
    },
  }
}

const report = {
  date: new Date().toISOString(),
  node: process.version,
  cpu: `${cpus().length} x ${cpus()[0]?.model}`,
  load: loadavg(),
  shape: flags.shape,
  kernels: [],
  steps: [],
}
const formats = flags.format.split(',')
const rowCounts = (flags.rows ?? (flags.device === 'cpu' ? '1,2,4,8,16,128' : '1,8,64')).split(',').map(Number)
const layers = Number(flags.layers ?? shape.layers)

function write(report) {
  mkdirSync(new URL('./results/', import.meta.url), { recursive: true })
  const adapter = report.adapter.replaceAll(/[^A-Za-z0-9]+/g, '-').replaceAll(/^-|-$/g, '')
  const file = new URL(`./results/kernels-${flags.shape}-${adapter}.json`, import.meta.url)
  writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`)
  console.log(`written: ${file.pathname}`)
}

if (flags.device === 'cpu') {
  const { hidden, inner, heads, kvHeads, headDim } = shape
  const matrices = [
    ['qkv', (heads + 2 * kvHeads) * headDim, hidden],
    ['gateUp', 2 * inner, hidden],
    ['down', hidden, inner],
  ]
  const threads = Number(flags.threads)
  const measured = await benchCpuKernels({
    matrices,
    formats,
    rowCounts,
    rounds: 20 * rounds,
    threads,
    weights,
    bytesOf,
  })
  console.log(
    `${measured.adapter} (${measured.driver}); streaming read ${measured.readBandwidth.gigabytesPerSecond.toFixed(1)} GB/s; load ${report.load[0]}`,
  )
  console.table(measured.results)
  write({ ...report, ...measured })
  process.exit(0)
}

for (const format of formats) {
  const backend = await open(true)
  report.adapter ??= backend.info.adapter
  report.driver ??= backend.info.driver
  if (report.roofline === undefined) {
    report.roofline = await rooflines(backend.device, backend.info.isSoftware)
    console.log(
      `${report.adapter}\n${report.driver}\nroofline: ${report.roofline.gbps.toFixed(1)} GB/s, ${report.roofline.gflops.toFixed(0)} GFLOP/s; load ${report.load[0]}\n`,
    )
  }
  const model = await loadModel(backend, format, 1)
  const w = model.stack[0]
  const calls = [
    ['qkv', w.qkv, model.qkv, model.h, { norm: model.norm }],
    ['output', w.output, model.h, model.attended, { residual: true }],
    ['gateUp', w.gateUp, model.wide, model.h, { norm: model.norm, glu: 'silu' }],
    ['down', w.down, model.h, model.wide, { residual: true }],
  ]
  for (const [name, matrix, out, x, options] of calls) {
    for (const rows of rowCounts) {
      let micros = Infinity
      for (let round = 0; round < rounds + 1; round++) {
        backend.beginStep(stepInput([{ start: 0, n: rows }]))
        for (let i = 0; i < 4; i++) backend.linear(out, x, matrix, options)
        const started = performance.now()
        const { gpuMicros } = await backend.endStep()
        micros = Math.min(micros, (gpuMicros ?? (performance.now() - started) * 1000) / 4)
      }
      const bytes = matrix.rows * matrix.cols * bytesOf[format]
      const gbps = bytes / micros / 1e3
      const gflops = (2 * matrix.rows * matrix.cols * rows) / micros / 1e3
      report.kernels.push({
        format,
        kernel: name,
        shape: `${matrix.rows}x${matrix.cols}`,
        rows,
        micros: Math.round(micros),
        'GB/s': Number(gbps.toFixed(2)),
        'GFLOP/s': Number(gflops.toFixed(1)),
        '% read': Math.round((100 * gbps) / report.roofline.gbps),
        '% fma': Math.round((100 * gflops) / report.roofline.gflops),
      })
    }
  }
  await backend.close()
}
console.table(report.kernels)

for (const format of flags['no-step'] ? [] : formats) {
  for (const traced of [true, false]) {
    const backend = await open(traced)
    const model = await loadModel(backend, format, layers)
    const decode = (batch) => Array.from({ length: batch }, () => ({ start: context, n: 1 }))
    for (const [name, sequences, tokens] of [
      ['decode, batch 1', decode(1), 1],
      ['decode, batch 4', decode(4), 4],
      ['decode, batch 16', decode(16), 16],
      ['prefill 512', [{ start: 0, n: 512 }], 512],
    ]) {
      let best = null
      for (let round = 0; round < (tokens > 100 ? 2 : rounds + 1); round++) {
        const started = performance.now()
        const { gpuMicros, kernels } = await model.step(sequences)
        const ms = performance.now() - started
        if (best === null || ms < best.ms) best = { ms, gpuMicros, kernels, encodeMs: model.encodeMs() }
      }
      if (traced) {
        const dispatches = best.kernels.reduce((sum, { count }) => sum + count, 0)
        console.log(`${format} ${name}: ${dispatches} dispatches`)
        console.table(best.kernels.map(({ kernel, micros, count }) => ({ kernel, micros: Math.round(micros), count })))
        report.steps.push({ format, name, dispatches, kernels: best.kernels })
      } else {
        const row = {
          format,
          name,
          ms: Number(best.ms.toFixed(2)),
          'tokens/s': Number(((1000 * tokens) / best.ms).toFixed(1)),
          'device ms': best.gpuMicros === null ? null : Number((best.gpuMicros / 1000).toFixed(2)),
          'encode %': Number(((100 * best.encodeMs) / best.ms).toFixed(1)),
        }
        console.log(JSON.stringify(row))
        report.steps.push(row)
      }
    }
    if (!traced) {
      // A chain of decode steps, each on the token of the one before: awaited one by one, and two in flight.
      const chain = 24
      const time = async (inFlight) => {
        const started = performance.now()
        const pending = []
        for (let i = 0; i < chain; i++) {
          pending.push(model.step([{ start: context + i, n: 1, previous: i > 0 }]))
          if (pending.length >= inFlight) await pending.shift()
        }
        await Promise.all(pending)
        return (performance.now() - started) / chain
      }
      const one = Math.min(await time(1), await time(1))
      const two = Math.min(await time(2), await time(2))
      console.log(
        `${format} decode chain: ${one.toFixed(2)} ms a step one by one, ${two.toFixed(2)} ms with two in flight`,
      )
      report.steps.push({ format, name: 'decode chain', oneByOneMs: one, twoInFlightMs: two })
    }
    await backend.close()
  }
}
write(report)
