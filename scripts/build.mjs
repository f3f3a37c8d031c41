#!/usr/bin/env node
// Builds dist/: the WebAssembly kernels, then TypeScript, then assets beside their modules. `--if-needed` skips when dist/ is newer than every source.
import { spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const dist = join(root, 'dist')
// Built beside and then put in its place: a failed or concurrent build never leaves half a dist/.
const staging = join(root, `.dist-${process.pid}`)
const stamp = join(dist, '.built')
const ASSETS = /\.(wgsl|wasm|css|js|json|svg)$/

/** Every file below a folder. */
function* walk(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) yield* walk(path)
    else yield path
  }
}

const isSource = (path) => !/\.test\.tsx?$/.test(path)
const sources = existsSync(join(root, 'src')) ? [...walk(join(root, 'src'))].filter(isSource) : []

if (process.argv.includes('--if-needed')) {
  // An installed package ships dist/ without src/ and has nothing to build.
  if (sources.length === 0) process.exit(0)
  const inputs = [...sources, join(root, 'package.json'), join(root, 'tsconfig.build.json')]
  if (existsSync(stamp)) {
    const builtAt = statSync(stamp).mtimeMs
    if (inputs.every((path) => statSync(path).mtimeMs <= builtAt)) process.exit(0)
  }
}

function run(command, args) {
  const result = spawnSync(process.execPath, [join(root, 'node_modules', command), ...args], {
    cwd: root,
    stdio: ['ignore', 2, 2],
  })
  if (result.status !== 0) {
    process.stderr.write(`build: ${command} failed${result.error ? `: ${result.error.message}` : ''}\n`)
    rmSync(staging, { recursive: true, force: true })
    process.exit(result.status ?? 1)
  }
}

const started = Date.now()
// The first build takes a while on a small machine: somebody waits in front of it.
process.stderr.write(
  existsSync(stamp) ? 'build: sources have changed …\n' : 'build: building dist/ for the first time …\n',
)
const wasmBuild = join(root, 'scripts', 'build-wasm.mjs')
if (existsSync(wasmBuild)) {
  const { buildWasm } = await import(wasmBuild)
  await buildWasm({ run, root, dist: staging })
}
run('typescript/bin/tsc', ['-p', 'tsconfig.build.json', '--outDir', staging])
for (const path of sources) {
  const inside = relative(join(root, 'src'), path)
  if (!ASSETS.test(path) || inside.includes('assembly')) continue
  const target = join(staging, inside)
  mkdirSync(dirname(target), { recursive: true })
  cpSync(path, target)
}
// An image is built without .git; its build says which commit it is of.
const named = process.env.MINISERVE_REVISION || null
const git = spawnSync('git', ['rev-parse', '--short=12', 'HEAD'], { cwd: root, encoding: 'utf8' })
const version = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).version
const revision = named ?? (git.status === 0 ? git.stdout.trim() : null)
writeFileSync(join(staging, 'build-info.json'), `${JSON.stringify({ version, revision })}\n`)
writeFileSync(join(staging, '.built'), '')
rmSync(dist, { recursive: true, force: true })
renameSync(staging, dist)
process.stderr.write(`build: dist/ ready in ${((Date.now() - started) / 1000).toFixed(1)} s\n`)
