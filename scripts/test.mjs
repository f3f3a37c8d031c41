#!/usr/bin/env node
// `npm test` (default), `--full`, `--soak`: type check, lint, formatting, build, then vitest; ends with a table of what was skipped and why.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const args = process.argv.slice(2)
const level = args.includes('--soak') ? 'soak' : args.includes('--full') ? 'full' : 'default'
const filters = args.filter((arg) => !arg.startsWith('--'))
const scratch = mkdtempSync(join(tmpdir(), 'miniserve-test-'))
const report = join(scratch, 'report.json')
/** What a check need not do again for files that have not changed. */
const cache = join(root, 'node_modules/.cache/miniserve-test')
const lavapipe = '/usr/share/vulkan/icd.d/lvp_icd.json'

const env = {
  ...process.env,
  MINISERVE_TEST_LEVEL: level,
  // Caches and indexes of the tests never touch the user's.
  MINISERVE_CACHE_DIR: join(scratch, 'cache'),
  MINISERVE_DATA_DIR: join(scratch, 'data'),
  XDG_RUNTIME_DIR: process.env.XDG_RUNTIME_DIR ?? scratch,
  // The tests' adapter is software Vulkan unless another one is chosen: the same results on every machine.
  ...(process.env.VK_DRIVER_FILES === undefined && existsSync(lavapipe) ? { VK_DRIVER_FILES: lavapipe } : {}),
  NO_COLOR: '1',
}

let failed = false
function conclude(title, isGood, started) {
  process.stdout.write(`${isGood ? 'ok  ' : 'FAIL'} ${title} (${((Date.now() - started) / 1000).toFixed(1)} s)\n`)
  if (!isGood) failed = true
}

function run(title, module, moduleArgs, options = {}) {
  const started = Date.now()
  const result = spawnSync(process.execPath, [join(root, module), ...moduleArgs], { cwd: root, env, stdio: 'inherit' })
  conclude(title, result.status === 0, started)
  if (result.status !== 0 && options.fatal) finish()
}

/** Runs beside the steps after it; the promise ends when it has, and has printed what it found. */
async function runBeside(title, module, moduleArgs) {
  const started = Date.now()
  const child = spawn(process.execPath, [join(root, module), ...moduleArgs], { cwd: root, env })
  const output = []
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => output.push(chunk))
  const [code] = await once(child, 'close')
  process.stdout.write(Buffer.concat(output))
  conclude(title, code === 0, started)
}

function finish() {
  rmSync(scratch, { recursive: true, force: true })
  process.exit(failed ? 1 : 0)
}

const isWhole = filters.length === 0 && level === 'default'
// It uses one core for longer than the compilers use both, and needs nothing of theirs.
const formatting = isWhole
  ? runBeside('formatting', 'node_modules/prettier/bin/prettier.cjs', [
      '--check',
      '--log-level=warn',
      '--cache',
      '--cache-strategy=content',
      `--cache-location=${join(cache, 'prettier')}`,
      '.',
    ])
  : null
run('build', 'scripts/build.mjs', ['--if-needed'], { fatal: true })
if (isWhole) {
  const check = (project) => [
    '--project',
    `${project}.json`,
    '--noEmit',
    '--incremental',
    '--tsBuildInfoFile',
    join(cache, `${project}.tsbuildinfo`),
  ]
  run('type check', 'node_modules/typescript/bin/tsc', check('tsconfig'))
  run('type check of scripts', 'node_modules/typescript/bin/tsc', check('tsconfig.scripts'))
  run('lint', 'node_modules/oxlint/bin/oxlint', ['--deny-warnings', 'src', 'test', 'scripts', 'bench'])
}
await formatting
const soakFilters = level === 'soak' && filters.length === 0 ? ['soak'] : []
run('tests', 'node_modules/vitest/vitest.mjs', [
  'run',
  '--reporter=default',
  '--reporter=json',
  `--outputFile.json=${report}`,
  ...soakFilters,
  ...filters,
])

if (existsSync(report)) {
  const results = JSON.parse(readFileSync(report, 'utf8'))
  const skipped = results.testResults.flatMap((file) =>
    file.assertionResults
      .filter((test) => ['skipped', 'pending', 'todo', 'disabled'].includes(test.status))
      .map((test) => ({ file: relative(root, file.name), name: test.fullName })),
  )
  const byFile = Map.groupBy ? Map.groupBy(skipped, (test) => test.file) : groupBy(skipped)
  process.stdout.write(`\nskipped: ${skipped.length}${skipped.length > 0 ? ' (the reason stands in the name)' : ''}\n`)
  for (const [file, tests] of byFile) {
    process.stdout.write(`  ${file}: ${tests.length}\n`)
    for (const test of tests.slice(0, 4)) process.stdout.write(`    ${test.name}\n`)
    if (tests.length > 4) process.stdout.write(`    and ${tests.length - 4} more\n`)
  }
  process.stdout.write(
    `\n${results.numPassedTests} passed, ${results.numFailedTests} failed, ${skipped.length} skipped\n`,
  )
}
finish()

function groupBy(items) {
  const map = new Map()
  for (const item of items) map.set(item.file, [...(map.get(item.file) ?? []), item])
  return map
}
