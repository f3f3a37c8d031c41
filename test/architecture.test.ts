/** The rules of docs/architecture.md and CONTRIBUTING.md, checked on every module of src/ and every page. */
import { describe, expect, it } from 'vitest'
import { exports, files, importersOf, imports, pages, sources, textOf, type Import } from './source-tree.ts'

const inRoom = (path: string, room: string) => path === room || path.startsWith(`${room}/`)
/** What every room may import: they import none. */
const FILES = 'regular-file.ts'
const isShared = (path: string) => path === FILES || path === 'promises.ts'
const isInternal = (path: string) => files.includes(path) && !isShared(path)
const isRunner = (path: string) => inRoom(path, 'engine/runner') || inRoom(path, 'engine/weights')

/** What each room may import from the others. */
const allowed: readonly { room: (path: string) => boolean; name: string; may: (i: Import) => boolean }[] = [
  { name: 'config', room: (p) => p === 'config.ts', may: ({ to }) => inRoom(to, 'settings') },
  { name: 'settings', room: (p) => inRoom(p, 'settings'), may: () => false },
  {
    name: 'server',
    room: (p) => inRoom(p, 'server'),
    may: ({ to, typeOnly }) =>
      (inRoom(to, 'engine') && !isRunner(to)) ||
      inRoom(to, 'rag') ||
      inRoom(to, 'observability') ||
      (to === 'config.ts' && typeOnly) ||
      (to === 'engine/runner/runner.ts' && typeOnly),
  },
  {
    name: 'rag',
    room: (p) => inRoom(p, 'rag'),
    may: ({ from, to, typeOnly }) =>
      to === 'observability/context.ts' ||
      // The entry of the thread that models run in on the engine's kernels.
      (inRoom(to, 'engine') && (typeOnly || from === 'rag/engine-worker.ts')),
  },
  {
    name: 'engine/runner and engine/weights',
    room: isRunner,
    may: ({ to }) => inRoom(to, 'kernels') || inRoom(to, 'engine'),
  },
  {
    name: 'remote',
    room: (p) => inRoom(p, 'remote'),
    may: ({ to }) =>
      inRoom(to, 'remote') || (inRoom(to, 'engine') && (!isRunner(to) || to === 'engine/runner/runner.ts')),
  },
  {
    name: 'the rest of engine',
    room: (p) => inRoom(p, 'engine') && !isRunner(p),
    may: ({ to }) =>
      inRoom(to, 'engine') && (!isRunner(to) || to === 'engine/runner/runner.ts' || inRoom(to, 'engine/weights')),
  },
  { name: 'kernels', room: (p) => inRoom(p, 'kernels'), may: ({ to }) => inRoom(to, 'kernels') },
  {
    name: 'observability',
    room: (p) => inRoom(p, 'observability'),
    may: ({ to, typeOnly }) => to === 'engine/summary.ts' || (to === 'engine/events.ts' && typeOnly),
  },
]

const roomOf = (path: string) => path.split('/')[0]
const show = (found: readonly Import[]) => found.map((i) => `${i.from} -> ${i.to}${i.typeOnly ? ' (types)' : ''}`)

describe('import rules', () => {
  it('reads the imports of the sources', () => {
    expect(imports.filter((i) => isInternal(i.to)).length).toBeGreaterThan(2)
  })

  it.each(allowed)('$name imports only what it may', ({ room, may }) => {
    const breaches = imports.filter(
      (i) => room(i.from) && isInternal(i.to) && roomOf(i.from) !== roomOf(i.to) && !may(i),
    )
    expect(show(breaches)).toEqual([])
  })

  it('what all may import imports nothing of the house', () => {
    expect(show(imports.filter(({ from, to }) => isShared(from) && files.includes(to)))).toEqual([])
    // User's paths are read through it: a named pipe must hold nobody.
    expect(imports.filter(({ to }) => to === FILES).length).toBeGreaterThan(10)
  })

  it('the engine reaches its runner only through its interface', () => {
    const engine = allowed.find((rule) => rule.name === 'the rest of engine')
    const breaches = imports.filter((i) => engine?.room(i.from) && isInternal(i.to) && !engine.may(i))
    expect(show(breaches)).toEqual([])
  })

  it('nothing imports main; only main imports serve, only serve imports server', () => {
    const breaches = imports.filter(
      (i) =>
        i.to === 'main.ts' ||
        (inRoom(i.to, 'server') && !inRoom(i.from, 'server') && i.from !== 'serve.ts') ||
        (i.to === 'serve.ts' && i.from !== 'main.ts'),
    )
    expect(show(breaches)).toEqual([])
  })

  it('scheduling, sampling and stop strings are pure: no kernels, no node modules', () => {
    const isPure = (path: string) =>
      inRoom(path, 'engine/schedule') || ['sampling', 'stops'].some((name) => path === `engine/requests/${name}.ts`)
    expect(files.filter(isPure).length).toBeGreaterThan(8)
    const breaches = imports.filter(
      (i) => isPure(i.from) && !i.typeOnly && (i.to.startsWith('node:') || inRoom(i.to, 'kernels')),
    )
    expect(show(breaches)).toEqual([])
  })

  it('the engine knows no HTTP, OpenTelemetry or WebGPU', () => {
    const breaches = imports.filter(
      (i) => inRoom(i.from, 'engine') && /^(hono|@hono|@opentelemetry|webgpu|pino)/.test(i.to),
    )
    expect(show(breaches)).toEqual([])
  })

  it('only kernels/webgpu knows WebGPU, only observability OpenTelemetry and pino, only server Hono', () => {
    const owners: readonly (readonly [RegExp, string])[] = [
      [/^webgpu$/, 'kernels/webgpu'],
      [/^(@opentelemetry\/|pino$|prom-client$)/, 'observability'],
      [/^(hono|@hono)(\/|$)/, 'server'],
      [/^@xenova\//, 'rag'],
    ]
    const breaches = imports.filter((i) =>
      owners.some(([name, room]) => name.test(i.to) && !inRoom(i.from, room) && !i.typeOnly),
    )
    expect(show(breaches).filter((line) => !line.startsWith('serve.ts -> @hono/node-server'))).toEqual([])
  })

  it('has no barrel files', () => {
    expect(files.filter((path) => /(^|\/)index\.tsx?$/.test(path))).toEqual([])
  })

  const edges = new Map<string, string[]>()
  for (const { from, to } of imports) if (isInternal(to)) edges.set(from, [...(edges.get(from) ?? []), to])

  it('has no cycles between modules, types included', () => {
    const state = new Map<string, 'open' | 'done'>()
    const cycles: string[] = []
    const visit = (path: string, trail: readonly string[]): void => {
      if (state.get(path) === 'done') return
      if (state.get(path) === 'open') {
        cycles.push([...trail.slice(trail.indexOf(path)), path].join(' -> '))
        return
      }
      state.set(path, 'open')
      for (const next of edges.get(path) ?? []) visit(next, [...trail, path])
      state.set(path, 'done')
    }
    for (const path of files) visit(path, [])
    expect(cycles).toEqual([])
  })

  it('puts log, context, stage, request trace and observability in line', () => {
    const line = ['log', 'context', 'stage', 'request-trace', 'observability'].map((name) => `observability/${name}.ts`)
    for (const [i, path] of line.slice(1).entries()) {
      const reached = new Set(edges.get(path))
      for (const next of reached) for (const further of edges.get(next) ?? []) reached.add(further)
      expect([...reached]).toContain(line[i])
    }
  })

  it('only config.ts reads process.env', () => {
    const readers = files.filter((path) => path !== 'config.ts' && textOf(path).includes('process.env'))
    expect(readers.filter((path) => path !== 'main.ts')).toEqual([])
  })
})

/** Exported for what is outside the server: tests that look for WebGPU adapters, and code in the process that was handed no host. */
const FOR_TOOLS: readonly string[] = [
  'kernels/webgpu/device.ts: hasAdapter',
  'observability/span-registry.ts: getSpanRegistry',
]

/** One name for implementations of one thing, a folder of src/kernels each. */
const isOfBackends = (path: string) => /^kernels\/(cpu|reference|webgpu)\//.test(path)

describe('modules', () => {
  it('have one style: #name for private members, @throws in docstrings', () => {
    const others = /^ *private (?!constructor)|\* Throws |\. Throws /m
    const mixed = [...sources].filter(([, text]) => others.test(text)).map(([path]) => path)
    expect(mixed).toEqual([])
  })

  it('are at most 400 lines long', () => {
    const long = [...sources].filter(([, text]) => text.trimEnd().split('\n').length > 400).map(([path]) => path)
    expect(long).toEqual([])
  })

  it('export what somebody else uses: another module, or a test or script of what the module itself uses', () => {
    const unused = exports.filter((entry) => {
      const importers = importersOf(entry)
      return importers.length === 0 || (entry.numMentions === 1 && !importers.some((path) => files.includes(path)))
    })
    const shown = unused.map(({ file, name }) => `${file}: ${name}`)
    expect(shown.filter((entry) => !FOR_TOOLS.includes(entry))).toEqual([])
  })

  it('give one name to one thing', () => {
    const byName = new Map<string, string[]>()
    for (const { name, file } of exports) byName.set(name, [...(byName.get(name) ?? []), file])
    const shared = [...byName].filter(([, all]) => all.length > 1 && !all.every(isOfBackends))
    expect(shared.map(([name, all]) => `${name}: ${all.join(', ')}`)).toEqual([])
  })

  it('say of every exported function and class what it is', () => {
    const undocumented = exports.filter(({ kind, isDocumented }) => /function|class/.test(kind) && !isDocumented)
    expect(undocumented.map(({ file, name }) => `${file}: ${name}`)).toEqual([])
  })
})

describe('pages', () => {
  it('have lines of at most 120 characters, tables and addresses aside', () => {
    const long = [...pages].flatMap(([path, text]) =>
      text
        .split('\n')
        .map((line, i) => ({ line, at: `${path}:${i + 1}` }))
        .filter(({ line }) => line.length > 120 && !/^\s*\|/.test(line))
        .map(({ at }) => at),
    )
    expect(long).toEqual([])
  })
})
