#!/usr/bin/env node
// `npm run bench -- isa [--model NAME,..] [--weights f16,q8,..] [--gpu navi31,navi21] [--all]`
// Every kernel that models of real shapes launch (decoders, experts, states, encoders, with K and V in f16 and in q8), compiled by the compiler
// that Radeon owners run (Mesa's RADV on its null device): registers, spills, scratch, waves per SIMD, instructions by kind, and the compiler's
// own estimates for one wave. The models are loaded by the engine's own code, without weights, on a GPU that is not there: nothing runs. The
// table shows the worst of each kernel, or with --all every row; JSON to bench/results/isa.json (with the default flags).
import { parseArgs } from 'node:util'
import { ENABLED_TOGGLES } from '#dist/kernels/webgpu/device.js'
import { absentKernels, MODELS, WEIGHTS } from './lib/isa/absent-model.mjs'
import { compileKernels, GPUS, missingTools } from './lib/isa/compile.mjs'
import { run } from './lib/run.mjs'

const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: Object.keys(MODELS).join(',') },
    weights: { type: 'string', default: Object.keys(WEIGHTS).join(',') },
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
  const gpus = flags.gpu.split(',')
  const found = await absentKernels(flags.model.split(','), flags.weights.split(','))
  const results = await compileKernels(
    found.map(({ text }) => text),
    ENABLED_TOGGLES,
    gpus,
  )
  const kernels = gpus.flatMap((gpu) =>
    found.map(({ kernel, kind, defines, models }, i) => ({ kernel, kind, defines, gpu, ...results[gpu][i], models })),
  )

  const shown = new Map()
  for (const row of kernels) {
    const key = flags.all ? shown.size : `${row.kernel} ${/FORMAT=\d+/.exec(row.defines)?.[0] ?? ''} ${row.gpu}`
    const known = shown.get(key)
    if (known === undefined || row.waves_per_simd < known.waves_per_simd || row.scratch_bytes > known.scratch_bytes) {
      shown.set(key, row)
    }
  }
  console.table(
    [...shown.values()].map((row) => ({
      kernel: row.kernel,
      defines: row.defines,
      gpu: row.gpu,
      VGPRs: row.vgprs,
      spilled: row.spilled_vgprs,
      scratch: row.scratch_bytes,
      LDS: row.lds_bytes,
      'waves per SIMD': row.waves_per_simd,
      instructions: row.instructions,
      'inverse throughput': row.inverse_throughput,
    })),
  )
  const spilling = kernels.filter((row) => row.spilled_vgprs > 0 || row.scratch_bytes > 0).length
  console.log(`${found.length} kernels, ${spilling} of ${kernels.length} rows spill or use scratch`)
  const rows = kernels.map(({ models, ...row }) => ({ ...row, models: models.join(', ') }))
  if (isDefault) save({ compiler: 'RADV (Mesa), null device', gpus, kernels: rows })
})
