// Compiles the cpu backend's kernels (AssemblyScript) to src/kernels/cpu/*.wasm, where tests load them, and copies them to
// dist/. Two builds from the same sources: plain SIMD, and relaxed SIMD for runtimes that have it.
import { cpSync, existsSync, mkdirSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'

const BUILDS = [
  { file: 'kernels.wasm', features: ['simd', 'threads', 'bulk-memory'] },
  { file: 'kernels-relaxed.wasm', features: ['simd', 'threads', 'bulk-memory', 'relaxed-simd'] },
]

/** `run(command, args)` runs a script of node_modules and exits on failure. A build newer than every source is kept. */
export function buildWasm({ run, root, dist }) {
  const folder = join(root, 'src', 'kernels', 'cpu')
  const sources = join(folder, 'assembly')
  const newest = Math.max(...readdirSync(sources).map((name) => statSync(join(sources, name)).mtimeMs))
  for (const { file, features } of BUILDS) {
    const target = join(folder, file)
    const isFresh = existsSync(target) && statSync(target).mtimeMs > newest
    const flags = '-O3 --noAssert --runtime stub --importMemory --sharedMemory --initialMemory 16 --maximumMemory 65536'
    const enabled = features.flatMap((feature) => ['--enable', feature])
    // 112: v128 in the signature of an exported function; only numbers cross to JavaScript.
    const warnings = ['--disableWarning', '112']
    const args = [join(sources, 'index.ts'), '--outFile', target, ...flags.split(' '), ...enabled, ...warnings]
    if (!isFresh) run('assemblyscript/bin/asc.js', args)
    mkdirSync(join(dist, 'kernels', 'cpu'), { recursive: true })
    cpSync(target, join(dist, 'kernels', 'cpu', file))
  }
}
