// Compiles the cpu backend's kernels (AssemblyScript) to src/kernels/cpu/*.wasm, where tests load them, and copies them to
// dist/. Three builds from the same sources: plain SIMD, relaxed SIMD, and that with dot products for processors that gain by
// them, which a probe in both of its forms finds out (src/kernels/cpu/kernel-build.ts).
import { cpSync, existsSync, mkdirSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'

const PLAIN = ['simd', 'threads', 'bulk-memory']
const RELAXED = [...PLAIN, 'relaxed-simd']
const KERNELS = '--importMemory --sharedMemory --initialMemory 16 --maximumMemory 65536'.split(' ')
const PROBE = '--initialMemory 1 --maximumMemory 1'.split(' ')

const BUILDS = [
  { file: 'kernels.wasm', entry: 'index.ts', features: PLAIN, dotProducts: 0, memory: KERNELS },
  { file: 'kernels-relaxed.wasm', entry: 'index.ts', features: RELAXED, dotProducts: 0, memory: KERNELS },
  { file: 'kernels-dots.wasm', entry: 'index.ts', features: RELAXED, dotProducts: 1, memory: KERNELS },
  { file: 'probe-relaxed.wasm', entry: 'probe.ts', features: RELAXED, dotProducts: 0, memory: PROBE },
  { file: 'probe-dots.wasm', entry: 'probe.ts', features: RELAXED, dotProducts: 1, memory: PROBE },
]

/** `run(command, args)` runs a script of node_modules and exits on failure. A build newer than every source is kept. */
export function buildWasm({ run, root, dist }) {
  const folder = join(root, 'src', 'kernels', 'cpu')
  const sources = join(folder, 'assembly')
  const newest = Math.max(...readdirSync(sources).map((name) => statSync(join(sources, name)).mtimeMs))
  for (const { file, entry, features, dotProducts, memory } of BUILDS) {
    const target = join(folder, file)
    const isFresh = existsSync(target) && statSync(target).mtimeMs > newest
    const flags = ['-O3', '--noAssert', '--runtime', 'stub', '--use', `DOT_PRODUCTS=${dotProducts}`, ...memory]
    const enabled = features.flatMap((feature) => ['--enable', feature])
    // 112: v128 in the signature of an exported function; only numbers cross to JavaScript.
    const warnings = ['--disableWarning', '112']
    const args = [join(sources, entry), '--outFile', target, ...flags, ...enabled, ...warnings]
    if (!isFresh) run('assemblyscript/bin/asc.js', args)
    mkdirSync(join(dist, 'kernels', 'cpu'), { recursive: true })
    cpSync(target, join(dist, 'kernels', 'cpu', file))
  }
}
