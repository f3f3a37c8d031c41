#!/usr/bin/env node
// `npm run bench -- kernels [--device webgpu|cpu] [--format f16,q8,q8-narrow,q4,q4-mins] [--shape smollm2-135m] [--rows 1,4,64] [--context 256] [--threads 1]`
// webgpu: each op at a model's shapes: device time, GB/s, GFLOP/s, and percent of what the adapter itself reaches in the same process (a
// streaming read and a multiply-add kernel). cpu: the matrix products. Whole steps, the host's share and two steps in flight: bench model.
// JSON to bench/results, a file per shape and adapter.
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { SHAPES } from './lib/gguf.mjs'
import { benchCpuKernels } from './lib/kernels-cpu.mjs'
import { benchWebGpuKernels } from './lib/kernels-webgpu.mjs'
import { run } from './lib/run.mjs'

const { values: flags } = parseArgs({
  options: {
    device: { type: 'string', default: 'webgpu' },
    threads: { type: 'string', default: '1' },
    format: { type: 'string' },
    shape: { type: 'string', default: 'smollm2-135m' },
    rows: { type: 'string' },
    context: { type: 'string', default: '256' },
    rounds: { type: 'string', default: '5' },
  },
})
const shape = SHAPES[flags.shape]
if (shape === undefined) throw new Error(`--shape ${flags.shape}: one of ${Object.keys(SHAPES).join(', ')}`)
const rounds = Number(flags.rounds)
// Narrow codes and minimums are kernels of their own on the cpu only.
const formats = (flags.format ?? (flags.device === 'cpu' ? 'f16,q8,q8-narrow,q4,q4-mins' : 'f16,q8,q4')).split(',')
const rowCounts = flags.rows?.split(',').map(Number)
/** Random weights; cheap to make, never denormal. */
function weights(format, rows, cols) {
  const words = new Uint32Array((rows * cols) / 4)
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i + 1, 0x9e3779b1)
  const bytes = words.buffer
  const scales = () => new Float32Array((rows * cols) / 32).fill(1 / 1024)
  const codes = new Int8Array(bytes)
  if (format === 'q8') return { format, group: 32, codes, scales: scales(), mins: null }
  if (format === 'q8-narrow') {
    const narrow = codes.map((code) => code >> 2)
    return { format: 'q8', group: 32, isNarrow: true, codes: narrow, scales: scales(), mins: null }
  }
  if (format === 'q4' || format === 'q4-mins') {
    const nibbles = new Uint8Array(bytes, 0, (rows * cols) / 2)
    return { format: 'q4', group: 32, codes: nibbles, scales: scales(), mins: format === 'q4' ? null : scales() }
  }
  if (format === 'f16') {
    const halves = new Uint16Array(rows * cols)
    for (let i = 0; i < halves.length; i++) halves[i] = (Math.imul(i + 1, 0x9e37) & 0x83ff) | 0x2400
    return { format, values: halves }
  }
  return { format, values: new Float32Array(rows * cols).fill(0.01) }
}

const bytesOf = { f32: 4, f16: 2, q8: 1 + 2 / 32, 'q8-narrow': 1 + 2 / 32, q4: 0.5 + 2 / 32, 'q4-mins': 0.5 + 4 / 32 }

/** A file per shape and adapter. */
function fileOf(adapter) {
  return `kernels-${flags.shape}-${adapter.replaceAll(/[^A-Za-z0-9]+/g, '-').replaceAll(/^-|-$/g, '')}`
}

async function benchCpu(save) {
  const { hidden, inner, heads, kvHeads, headDim } = shape
  const measured = await benchCpuKernels({
    matrices: [
      ['qkv', (heads + 2 * kvHeads) * headDim, hidden],
      ['gateUp', 2 * inner, hidden],
      ['down', hidden, inner],
    ],
    formats,
    rowCounts: rowCounts ?? [1, 2, 3, 4, 8, 16, 128],
    rounds: 20 * rounds,
    threads: Number(flags.threads),
    weights,
    bytesOf,
  })
  console.log(
    `${measured.adapter} (${measured.driver}); streaming read ${measured.readBandwidth.gigabytesPerSecond.toFixed(1)} GB/s`,
  )
  console.table(measured.results)
  save({ shape: flags.shape, ...measured }, fileOf(measured.adapter))
}

async function benchWebGpu(save) {
  const { info, roofline, kernels } = await benchWebGpuKernels({
    shape,
    formats,
    rowCounts,
    context: Number(flags.context),
    rounds,
    weights,
    bytesOf,
  })
  const { adapter, driver, isSoftware } = info
  const driverThreads = isSoftware ? Number(process.env.LP_NUM_THREADS ?? availableParallelism()) : null
  console.log(
    `${adapter} (${driver})${driverThreads === null ? '' : `, ${driverThreads} driver threads`}\n` +
      `roofline: ${roofline.gigabytesPerSecond.toFixed(1)} GB/s, ${roofline.gigaflopsPerSecond.toFixed(0)} GFLOP/s`,
  )
  console.table(kernels)
  save({ shape: flags.shape, adapter, driver, driverThreads, roofline, kernels }, fileOf(adapter))
}

await run('kernels', (save) => (flags.device === 'cpu' ? benchCpu(save) : benchWebGpu(save)))
