/** Benchmarks and experiments run on the built server and are not type checked: what they import from it must exist. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')

const scripts = ['bench', 'experiments', 'scripts'].flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.mjs') && !path.includes('node_modules'))
    .map((path) => join(folder, path)),
)

/** Names that scripts import from modules of dist/, by the module's source. */
const imported = scripts.flatMap((script) => {
  const text = readFileSync(join(root, script), 'utf8')
  return [...text.matchAll(/^import \{([^}]*)\} from '(\.[^']*\/dist\/[^']+)\.js'/gm)].flatMap(
    ([, names = '', path = '']) => {
      const inDist = relative(join(root, 'dist'), resolve(root, dirname(script), path))
      return names
        .split(',')
        .map((name) => name.trim().split(' as ')[0] ?? '')
        .filter((name) => name !== '')
        .map((name) => ({ script, name, source: join('src', `${inDist}.ts`) }))
    },
  )
})

it('scripts import from the server only what it exports', () => {
  expect(imported.length).toBeGreaterThan(30)
  const missing = imported.filter(({ name, source }) => {
    const text = readFileSync(join(root, source), 'utf8')
    return !new RegExp(`^export (?:async )?(?:const|function\\*?|class) ${name}\\b`, 'm').test(text)
  })
  expect(missing).toEqual([])
})
