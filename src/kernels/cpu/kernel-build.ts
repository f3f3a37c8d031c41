/** The builds of the cpu kernels (scripts/build-wasm.mjs), and which of them this processor and runtime are given. */
import { readFile } from 'node:fs/promises'
import { compile, hasRelaxedSimd, openProbe, type Module, type Probe } from './host.js'

/**
 * `plain`: SIMD. `relaxed`: relaxed SIMD, whose fused multiply-adds round once where `plain` rounds twice. `dots`: the same with dot products of bytes
 * instead of pairs of them, exact integers either way, so its results have the bits of `relaxed`. All read the same packed weights.
 */
export type KernelBuild = 'plain' | 'relaxed' | 'dots'

/** How a log names them. */
export const BUILD_NAMES: Readonly<Record<KernelBuild, string>> = {
  plain: 'SIMD',
  relaxed: 'relaxed SIMD',
  dots: 'relaxed SIMD with dot products',
}

const FILES: Readonly<Record<KernelBuild, string>> = {
  plain: 'kernels.wasm',
  relaxed: 'kernels-relaxed.wasm',
  dots: 'kernels-dots.wasm',
}

/** Milliseconds of the two products that most time goes to: a quad of rows (prompts, batches) and one row (decoding). */
export interface ProbeTimes {
  readonly quadOfRows: number
  readonly oneRow: number
}

/** Dot products have to take at most this share of the time of pairs for a quad of rows to be worth another build. */
const REQUIRED = 0.9
/** And for one row, which mostly waits for memory: no more time, but for what two measurements of the same differ by. */
const ALLOWED = 1.05

const ROUNDS = 6
const REPEATS = { quadOfRows: 40, oneRow: 60 } as const

const compiled = new Map<KernelBuild, Promise<Module>>()

/**
 * Compiles a build, once per thread.
 * @throws when the kernels have not been built, and where the runtime does not know their instructions
 */
export async function compileBuild(build: KernelBuild): Promise<Module> {
  if (build !== 'plain' && !hasRelaxedSimd()) throw new Error(`node ${process.version} has no ${BUILD_NAMES.relaxed}`)
  const module = compiled.get(build) ?? read(FILES[build]).then(compile)
  compiled.set(build, module)
  try {
    return await module
  } catch (error) {
    compiled.delete(build)
    throw error
  }
}

let fastest: Promise<KernelBuild> | null = null

/** The fastest build here, found out once per process, in a few milliseconds. */
export function fastestBuild(): Promise<KernelBuild> {
  fastest ??= (async () => (hasRelaxedSimd() ? chooseRelaxed(await timeProbes()) : 'plain'))()
  return fastest
}

/** The build with relaxed SIMD that these times of the probe's two forms speak for. */
export function chooseRelaxed(times: { readonly relaxed: ProbeTimes; readonly dots: ProbeTimes }): KernelBuild {
  const { relaxed, dots } = times
  const isFaster = dots.quadOfRows <= REQUIRED * relaxed.quadOfRows && dots.oneRow <= ALLOWED * relaxed.oneRow
  return isFaster ? 'dots' : 'relaxed'
}

/** The best of several short rounds, the forms by turns: a thread that is interrupted loses one round. */
async function timeProbes(): Promise<{ readonly relaxed: ProbeTimes; readonly dots: ProbeTimes }> {
  const open = async (file: string): Promise<Probe> => openProbe(await read(file))
  const [relaxed, dots] = await Promise.all([open('probe-relaxed.wasm'), open('probe-dots.wasm')])
  const best = { relaxed: { quadOfRows: Infinity, oneRow: Infinity }, dots: { quadOfRows: Infinity, oneRow: Infinity } }
  for (let round = 0; round < ROUNDS; round++) {
    timeRound(relaxed, best.relaxed)
    timeRound(dots, best.dots)
  }
  return best
}

function timeRound(probe: Probe, best: { quadOfRows: number; oneRow: number }): void {
  for (const product of ['quadOfRows', 'oneRow'] as const) {
    const start = performance.now()
    probe[product](REPEATS[product])
    best[product] = Math.min(best[product], performance.now() - start)
  }
}

async function read(file: string): Promise<Uint8Array> {
  const path = new URL(`./${file}`, import.meta.url)
  return await readFile(path).catch((cause: unknown) => {
    throw new Error(`the cpu backend's kernels are missing (${path.pathname}): run npm run build`, { cause })
  })
}
