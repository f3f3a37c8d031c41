#!/usr/bin/env node
// `npm test` (default), `--full`, `--soak`: type check, lint, formatting, build, then vitest; ends with a table of what was skipped and why.
import { spawnSync } from 'node:child_process'
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
function run(title, module, moduleArgs, options = {}) {
  const started = Date.now()
  const result = spawnSync(process.execPath, [join(root, module), ...moduleArgs], { cwd: root, env, stdio: 'inherit' })
  const ok = result.status === 0
  process.stdout.write(`${ok ? 'ok  ' : 'FAIL'} ${title} (${((Date.now() - started) / 1000).toFixed(1)} s)\n`)
  if (!ok) failed = true
  if (!ok && options.fatal) finish()
}

function finish() {
  rmSync(scratch, { recursive: true, force: true })
  process.exit(failed ? 1 : 0)
}

run('build', 'scripts/build.mjs', ['--if-needed'], { fatal: true })
if (filters.length === 0 && level === 'default') {
  run('type check', 'node_modules/typescript/bin/tsc', ['-p', 'tsconfig.json', '--noEmit'])
  run('type check of scripts', 'node_modules/typescript/bin/tsc', ['-p', 'tsconfig.scripts.json', '--noEmit'])
  run('lint', 'node_modules/oxlint/bin/oxlint', ['--deny-warnings', 'src', 'test', 'scripts', 'bench'])
  run('formatting', 'node_modules/prettier/bin/prettier.cjs', ['--check', '--log-level', 'warn', '.'])
}
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
