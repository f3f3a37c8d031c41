/** The sources of src/ as text: their imports and exports, for the rules that the architecture test checks. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')

/** One import statement, or one name of it. Paths of this repository are relative to src/, others as written. */
export interface Import {
  readonly from: string
  readonly to: string
  readonly typeOnly: boolean
  /** The imported names; null: all of them, or those that a dynamic import takes. */
  readonly names: readonly string[] | null
}

/** One exported declaration. */
export interface Export {
  readonly file: string
  readonly name: string
  readonly kind: string
  readonly isDocumented: boolean
  /** How often the name stands in its own file. */
  readonly numMentions: number
}

const under = (folder: string, pattern: RegExp): readonly string[] =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .map((path) => join(folder, path).replaceAll('\\', '/'))
    .filter((path) => pattern.test(path) && !path.includes('node_modules') && !path.includes('/.venv/'))

const read = (path: string) => readFileSync(join(root, path), 'utf8')
const isTest = (path: string) => !path.startsWith('src/') || /\.test\.tsx?$/.test(path)

const texts = new Map<string, string>(
  ['src', 'test', 'bench', 'scripts', 'experiments']
    .flatMap((folder) => under(folder, /\.(tsx?|mjs)$/))
    .filter((path) => !path.includes('kernels/cpu/assembly'))
    .map((path) => [path, read(path)]),
)

/** The modules of src/, relative to it, without tests. */
export const files: readonly string[] = [...texts.keys()]
  .filter((path) => !isTest(path))
  .map((path) => path.slice('src/'.length))

/** Everything that is written in src/, kernels too, without tests: text by path. */
export const sources: ReadonlyMap<string, string> = new Map(
  under('src', /\.(tsx?|wgsl|wat)$/)
    .filter((path) => !isTest(path))
    .map((path) => [path, read(path)]),
)

/** The text of a module of src/. */
export const textOf = (file: string): string => texts.get(`src/${file}`) ?? ''

/** A specifier as a path relative to src/; one of a package as it is. */
function resolved(from: string, specifier: string): string {
  if (specifier.startsWith('#dist/')) return specifier.slice('#dist/'.length).replace(/\.js$/, '.ts')
  if (!specifier.startsWith('.')) return specifier
  const path = relative(root, resolve(root, dirname(from), specifier)).replaceAll('\\', '/')
  const source = path.replace(/^dist\//, 'src/').replace(/\.js$/, '.ts')
  return (texts.has(source) ? source : path).replace(/^src\//, '')
}

function importsOf(path: string): Import[] {
  const text = texts.get(path) ?? ''
  const from = path.replace(/^src\//, '')
  const statements = text.matchAll(/^\s*(?:import|export)\s+(type\s+)?(?:([^'";]*?)\sfrom\s+)?'([^']+)'/gm)
  const dynamic = text.matchAll(/\bimport\(\s*[^)]*?['`]([^'`]+)['`]/g)
  return [
    ...[...statements].map(([, type, clause = '', to = '']) => {
      const list = /\{([^}]*)\}/.exec(clause)?.[1]
      const names = list?.split(',').map((part) =>
        part
          .trim()
          .replace(/^type /, '')
          .replace(/ as .*/, ''),
      )
      return { from, to: resolved(path, to), typeOnly: type !== undefined, names: names ?? null }
    }),
    ...[...dynamic].map(([, to = '']) => ({ from, to: resolved(path, to), typeOnly: false, names: null })),
  ]
}

const allImports = [...texts.keys()].flatMap(importsOf)

/** The imports of the modules of src/. */
export const imports: readonly Import[] = allImports.filter(({ from }) => files.includes(from))

/** The exported declarations of src/, declaration files aside. */
export const exports: readonly Export[] = files
  .filter((file) => !file.endsWith('.d.ts'))
  .flatMap((file) => {
    const lines = textOf(file).split('\n')
    return lines.flatMap((line, i) => {
      const [, kind, name] =
        /^export (?:async )?(abstract class|class|function\*?|const|interface|type) (\w+)/.exec(line) ?? []
      if (!kind || !name) return []
      const isOverload = lines.slice(0, i).some((before) => new RegExp(`^export function ${name}[(<]`).test(before))
      if (isOverload) return []
      const isDocumented = lines[i - 1]?.endsWith('*/') === true
      const numMentions = textOf(file).match(new RegExp(`\\b${name}\\b`, 'g'))?.length ?? 0
      return [{ file, name, kind, isDocumented, numMentions }]
    })
  })

/** The files that import a name, tests and scripts included. */
export function importersOf({ file, name }: Export): readonly string[] {
  const importers = allImports
    .filter(({ from, to, names }) => to === file && from !== file && (names?.includes(name) ?? mentions(from, name)))
    .map(({ from }) => from)
  return [...new Set(importers)]
}

const mentions = (from: string, name: string): boolean =>
  new RegExp(`\\b${name}\\b`).test(texts.get(`src/${from}`) ?? texts.get(from) ?? '')

/** The Markdown pages of the repository. */
export const pages: ReadonlyMap<string, string> = new Map(
  ['bench', 'deploy', 'docs', 'experiments', 'models', 'src', 'test']
    .flatMap((folder) => under(folder, /\.md$/))
    .concat(readdirSync(root).filter((name) => name.endsWith('.md')))
    .map((path) => [path, read(path)]),
)
