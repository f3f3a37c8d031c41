#!/usr/bin/env node
// `npm run bench -- isa [--shape NAME,..] [--weights f16,q8,q4] [--gpu navi31,navi21] [--all]`
// Every kernel that models of real shapes launch, compiled by the compiler that Radeon owners run (Mesa's RADV on its null device): registers,
// spills, scratch, waves a SIMD, instructions by kind, and the compiler's own estimates for one wave. Nothing runs: no GPU is needed. The table
// shows the worst of each kernel over the shapes, or with --all every row; JSON to bench/results/isa.json (with the default flags).
import { parseArgs } from 'node:util'
import { modelKernels } from '#dist/kernels/webgpu/catalogue.js'
import { ENABLED_TOGGLES } from '#dist/kernels/webgpu/device.js'
import { shaderText } from '#dist/kernels/webgpu/pipelines.js'
import { SHAPES } from './lib/gguf.mjs'
import { compileKernels, GPUS, missingTools } from './lib/isa/compile.mjs'
import { run } from './lib/run.mjs'

const { values: flags } = parseArgs({
  options: {
    shape: { type: 'string', default: Object.keys(SHAPES).join(',') },
    weights: { type: 'string', default: 'f16,q8,q4' },
    gpu: { type: 'string', default: GPUS.join(',') },
    all: { type: 'boolean', default: false },
  },
})
const isDefault = process.argv.slice(2).every((flag) => flag === '--all')
const missing = await missingTools()
if (missing !== null) {
  process.stderr.write(`bench isa: ${missing}; scripts/ci-setup.sh installs it\n`)
  process.exit(2)
}

await run('isa', async (save) => {
  const weightFormats = /** @type {('f16' | 'q8' | 'q4')[]} */ (flags.weights.split(','))
  const entries = flags.shape.split(',').flatMap((name) => {
    if (SHAPES[name] === undefined) throw new Error(`--shape ${name}: one of ${Object.keys(SHAPES).join(', ')}`)
    return weightFormats.flatMap((weights) =>
      modelKernels(SHAPES[name], weights).map((entry) => ({ shape: name, text: shaderText(entry.source), ...entry })),
    )
  })
  const texts = [...new Set(entries.map(({ text }) => text))]
  const gpus = flags.gpu.split(',')
  const results = await compileKernels(texts, ENABLED_TOGGLES, gpus)

  // A kernel that several shapes launch is one row.
  const rows = new Map()
  for (const { kernel, kind, weights, rows: most, shape, text } of entries) {
    for (const gpu of gpus) {
      const key = `${text}${gpu}${kernel}`
      const known = rows.get(key)
      if (known !== undefined) known.shapes = [...new Set([...known.shapes, shape])]
      else
        rows.set(key, { kernel, kind, weights, rows: most, gpu, shapes: [shape], ...results[gpu][texts.indexOf(text)] })
    }
  }
  const kernels = [...rows.values()]

  const shown = new Map()
  for (const row of kernels) {
    const key = flags.all ? shown.size : `${row.kernel} ${row.weights} ${row.rows} ${row.gpu}`
    const known = shown.get(key)
    if (known === undefined || row.waves_per_simd < known.waves_per_simd || row.scratch_bytes > known.scratch_bytes) {
      shown.set(key, row)
    }
  }
  console.table(
    [...shown.values()].map((row) => ({
      kernel: row.kernel,
      weights: row.weights ?? '-',
      rows: row.rows ?? 'any',
      gpu: row.gpu,
      VGPRs: row.vgprs,
      spilled: row.spilled_vgprs,
      scratch: row.scratch_bytes,
      LDS: row.lds_bytes,
      'waves a SIMD': row.waves_per_simd,
      instructions: row.instructions,
      'inverse throughput': row.inverse_throughput,
    })),
  )
  const spilling = kernels.filter((row) => row.spilled_vgprs > 0 || row.scratch_bytes > 0).length
  console.log(`${texts.length} kernels, ${spilling} of ${kernels.length} rows spill or use scratch`)
  if (isDefault) save({ compiler: 'RADV (Mesa), null device', gpus, kernels })
})
