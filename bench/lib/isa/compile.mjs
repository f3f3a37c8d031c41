// What a GPU's own compiler makes of WGSL texts, on a machine without that GPU: Dawn translates them to SPIR-V on whatever adapter there is
// (dump.mjs), spirv-as assembles what it printed, and Mesa's RADV compiles it for its null device (pipeline-stats.c). Nothing is executed.
import { execFile, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const run = promisify(execFile)
const here = dirname(fileURLToPath(import.meta.url))
const RADV = '/usr/share/vulkan/icd.d/radeon_icd.json'
const LAVAPIPE = '/usr/share/vulkan/icd.d/lvp_icd.json'

/** RDNA 3 and RDNA 2, by the names RADV knows them. */
export const GPUS = ['navi31', 'navi21']

/** Why kernels cannot be compiled here, or null. */
export async function missingTools() {
  for (const [tool, name] of [
    ['spirv-as', 'spirv-tools'],
    ['gcc', 'gcc'],
  ]) {
    try {
      await run(tool, ['--version'])
    } catch {
      return `there is no ${tool} (package ${name})`
    }
  }
  if (!existsSync('/usr/include/vulkan/vulkan.h')) return 'there are no Vulkan headers (package libvulkan-dev)'
  return existsSync(RADV) && existsSync(LAVAPIPE)
    ? null
    : 'there is no RADV beside software Vulkan (package mesa-vulkan-drivers)'
}

/** Runs a command with input, without a limit on its output. */
async function pipe(command, args, input, env) {
  const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['pipe', 'pipe', 'pipe'] })
  const output = []
  const errors = []
  child.stdout.on('data', (chunk) => output.push(chunk))
  child.stderr.on('data', (chunk) => errors.push(chunk))
  child.stdin.end(input)
  const status = await new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', resolve)
  })
  if (status !== 0) throw new Error(`${command} ${args[0] ?? ''} ended with ${status}: ${Buffer.concat(errors)}`)
  return Buffer.concat(output).toString()
}

/** Dawn's dump as SPIR-V texts by the kernel's number. */
export function splitDump(dump) {
  const texts = new Map()
  for (const part of dump.split('// Dumped WGSL:').slice(1)) {
    const id = /\/\/ kernel (\d+)/.exec(part)?.[1]
    const start = part.indexOf('; SPIR-V')
    if (id === undefined || start < 0) continue
    const text = part.slice(start)
    const end = text.lastIndexOf('OpFunctionEnd')
    // RADV's SPIR-V reader is older than this extension, which changes nothing for code without divergent control flow around barriers.
    const lines = text
      .slice(0, end)
      .split('\n')
      .filter((line) => !/maximal_reconvergence|MaximallyReconverges/.test(line))
    texts.set(Number(id), `${lines.join('\n')}OpFunctionEnd\n`)
  }
  return texts
}

/** The figures of interest from a line of pipeline-stats. */
function figures({ statistics: s, subgroup }) {
  return {
    subgroup,
    vgprs: s['VGPRs'],
    spilled_vgprs: s['Spilled VGPRs'],
    spilled_sgprs: s['Spilled SGPRs'],
    scratch_bytes: s['Scratch size'],
    lds_bytes: s['LDS size'],
    waves_per_simd: s['Subgroups per SIMD'],
    instructions: s['Instructions'],
    valu: s['VALU'],
    salu: s['SALU'],
    vmem: s['VMEM'],
    smem: s['SMEM'],
    branches: s['Branches'],
    latency: s['Latency'],
    inverse_throughput: s['Inverse Throughput'],
  }
}

/**
 * Compiles WGSL texts for each GPU.
 * @param texts distinct kernels
 * @param toggles Dawn's, as the backend sets them
 * @param keep a folder that keeps the assembled .spv files, or null
 * @returns for each GPU, for each text, its figures: { navi31: [..], navi21: [..] }
 * @throws Error naming the kernel that does not compile
 */
export async function compileKernels(texts, toggles, gpus = GPUS) {
  const folder = await mkdtemp(join(tmpdir(), 'miniserve-isa-'))
  try {
    const program = join(folder, 'pipeline-stats')
    await run('gcc', ['-O1', '-o', program, join(here, 'pipeline-stats.c'), '-lvulkan'])
    const kernels = texts.map((text, id) => ({ id, text }))
    const dump = await pipe(process.execPath, [join(here, 'dump.mjs')], JSON.stringify({ toggles, kernels }), {
      VK_DRIVER_FILES: LAVAPIPE,
      GALLIVM_PERF: 'nopt',
    })
    const assembly = splitDump(dump)
    const files = []
    for (const { id } of kernels) {
      const text = assembly.get(id)
      if (text === undefined) throw new Error(`Dawn printed no SPIR-V of kernel ${id}`)
      const source = join(folder, `${id}.spvasm`)
      await writeFile(source, text)
      files.push(join(folder, `${id}.spv`))
      await run('spirv-as', ['--target-env', 'vulkan1.3', source, '-o', files.at(-1)])
    }
    const results = {}
    for (const gpu of gpus) {
      const env = { VK_DRIVER_FILES: RADV, RADV_FORCE_FAMILY: gpu, MESA_SHADER_CACHE_DISABLE: 'true' }
      const lines = (await pipe(program, files, '', env)).trim().split('\n')
      results[gpu] = lines.map((line) => figures(JSON.parse(line)))
    }
    return results
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
