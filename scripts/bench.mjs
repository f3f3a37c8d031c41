#!/usr/bin/env node
// `npm run bench -- NAME [flags]`: builds if needed, then runs bench/NAME.mjs.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const [name, ...flags] = process.argv.slice(2)
const names = readdirSync(join(root, 'bench'))
  .filter((file) => file.endsWith('.mjs'))
  .map((file) => file.slice(0, -4))
if (!name || !names.includes(name)) {
  process.stderr.write(`usage: npm run bench -- ${names.join('|')} [flags]\n`)
  process.exit(2)
}
if (existsSync(join(root, 'src'))) {
  const build = spawnSync(process.execPath, [join(root, 'scripts', 'build.mjs'), '--if-needed'], { stdio: 'inherit' })
  if (build.status !== 0) process.exit(build.status ?? 1)
}
const bench = spawnSync(process.execPath, [join(root, 'bench', `${name}.mjs`), ...flags], {
  cwd: root,
  stdio: 'inherit',
})
process.exit(bench.status ?? 1)
