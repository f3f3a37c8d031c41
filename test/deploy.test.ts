/** deploy/: files parse, every query names something the server emits, the alert rules pass their unit tests. */
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parser as traceql } from '@grafana/lezer-traceql'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parse } from 'yaml'
import { SPAN_TABLE } from '../src/observability/contract.ts'
import { ServerProcess } from './e2e/server-process.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const deploy = join(root, 'deploy')
const read = (path: string) => readFileSync(join(deploy, path), 'utf8')

interface Dashboard {
  readonly uid: string
  readonly title: string
  readonly panels: readonly {
    readonly title: string
    readonly gridPos: { readonly x: number; readonly w: number }
    readonly targets: readonly {
      readonly expr?: string
      readonly query?: string
      readonly datasource: { readonly uid: string }
    }[]
  }[]
}

const dashboards = readdirSync(join(deploy, 'grafana', 'dashboards')).map(
  (name) => JSON.parse(read(`grafana/dashboards/${name}`)) as Dashboard,
)
const targets = dashboards.flatMap((board) =>
  board.panels.flatMap((panel) =>
    panel.targets.map((target) => ({ ...target, where: `${board.title} / ${panel.title}` })),
  ),
)

const hasPromtool = spawnSync('promtool', ['--version']).status === 0
const isRequired = (process.env['MINISERVE_REQUIRE'] ?? '').split(',').includes('promtool')

describe('metrics in queries', () => {
  let server: ServerProcess
  let names: Set<string>

  beforeAll(async () => {
    server = await ServerProcess.start()
    await (await server.post('/v1/completions', { prompt: 'The river', max_tokens: 4 })).text()
    const text = await (await server.get('/metrics')).text()
    names = new Set(
      [...text.matchAll(/^# TYPE (\S+) (\S+)/gm)].flatMap(([, name = '', type]) =>
        type === 'histogram' ? [`${name}_bucket`, `${name}_count`, `${name}_sum`] : [name],
      ),
    )
  })

  afterAll(async () => {
    await server?.stop()
  })

  it.each(targets.filter((target) => target.expr !== undefined).map((target) => [target.where, target.expr ?? '']))(
    '%s names metrics that the server emits',
    (_, expr) => {
      const used = [...expr.matchAll(/\b(?:miniserve|process|nodejs|gen_ai)_\w+/g)].map(([name]) => name)
      expect(used.length).toBeGreaterThan(0)
      expect(used.filter((name) => !names.has(name))).toEqual([])
    },
  )

  it('the alert rules name metrics that the server emits, and only the ones they record', () => {
    const rules = read('prometheus/rules.yml')
    const recorded = new Set([...rules.matchAll(/record: (\S+)/g)].map(([, name]) => name))
    const used = [...rules.matchAll(/\bminiserve[_:][\w:]+/g)].map(([name]) => name)
    expect(used.filter((name) => !names.has(name) && !recorded.has(name) && !name.includes('-'))).toEqual([])
  })
})

describe('TraceQL', () => {
  const documented = [...readFileSync(join(root, 'docs', 'span-contract.md'), 'utf8').matchAll(/^(\{ .*)$/gm)].map(
    ([, query = '']) => query,
  )
  const queries = [...targets.flatMap((target) => target.query ?? []), ...documented]

  it('has queries to hold', () => {
    expect(queries.length).toBeGreaterThan(12)
  })

  it.each(queries)('%s parses and names attributes of the contract', (query) => {
    const errors: number[] = []
    traceql.parse(query).iterate({ enter: (node) => void (node.type.isError && errors.push(node.from)) })
    expect(errors).toEqual([])
    const known = new Set(
      Object.values(SPAN_TABLE).flatMap((span) =>
        Object.entries(span.attributes).flatMap(([key, spec]) => [key, ...(spec.alias ?? [])]),
      ),
    )
    const used = [...query.matchAll(/span\.([\w.]+)/g)].map(([, name = '']) => name)
    expect(used.filter((name) => !known.has(name))).toEqual([])
    const spans = [...query.matchAll(/(?<![\w.])name="([^"]+)"/g)].map(([, name = '']) => name)
    expect(spans.filter((name) => !(name in SPAN_TABLE))).toEqual([])
  })
})

describe('files', () => {
  it('every dashboard has its own uid and panels that fit the grid', () => {
    expect(new Set(dashboards.map((board) => board.uid)).size).toBe(dashboards.length)
    for (const panel of dashboards.flatMap((board) => board.panels))
      expect(panel.gridPos.x + panel.gridPos.w).toBeLessThanOrEqual(24)
    const sources = parse(read('grafana/provisioning/datasources/datasources.yaml')) as {
      datasources: { uid: string }[]
    }
    const uids = sources.datasources.map((source) => source.uid)
    expect(targets.filter((target) => !uids.includes(target.datasource.uid))).toEqual([])
  })

  it('compose pins every image, mounts only files that exist, and its services reach each other by name', () => {
    const compose = parse(read('compose.yaml')) as {
      services: Record<string, { image?: string; volumes?: string[]; depends_on?: string[] }>
      volumes: Record<string, unknown>
    }
    for (const [name, service] of Object.entries(compose.services)) {
      if (service.image !== undefined) expect(service.image, name).toMatch(/:v?\d+\.\d+\.\d+$/)
      for (const volume of service.volumes ?? []) {
        const source = volume.split(':')[0] ?? ''
        if (source.startsWith('./')) expect(() => readdirOrFile(source), `${name} mounts ${source}`).not.toThrow()
        else expect(Object.keys(compose.volumes), `${name} mounts ${source}`).toContain(source)
      }
      for (const other of service.depends_on ?? []) expect(Object.keys(compose.services)).toContain(other)
    }
    const hosts = [
      'otel-collector.yaml',
      'tempo.yaml',
      'prometheus/prometheus.yml',
      'grafana/provisioning/datasources/datasources.yaml',
    ]
      .flatMap((path) => [...read(path).matchAll(/(?:https?:\/\/|endpoint: |targets: \[')([a-z][a-z-]+):\d+/g)])
      .map(([, host = '']) => host)
    for (const host of hosts) expect(Object.keys(compose.services)).toContain(host)
  })

  it('the collector reads the time and the level of a real log line', async () => {
    const server = await ServerProcess.start()
    await (await server.post('/v1/completions', { prompt: 'The river', max_tokens: 1 })).text()
    const line = await server.waitForLog(({ msg }) => msg === 'response.sent')
    await server.stop()
    const collector = parse(read('otel-collector.yaml')) as {
      receivers: { filelog: { operators: { type: string; timestamp?: { parse_from: string; layout: string } }[] } }
    }
    const [parser] = collector.receivers.filelog.operators
    // Go's reference time, digit by digit: what differs from it in form would not parse.
    const form = new RegExp(
      `^${(parser?.timestamp?.layout ?? '').replaceAll(/\d+/g, (digits) => `\\d{${digits.length}}`).replaceAll('.', '\\.')}$`,
    )
    expect(parser?.timestamp?.parse_from).toBe('attributes.time')
    expect(String(line['time'])).toMatch(form)
    expect(['trace', 'debug', 'info', 'warn', 'error', 'fatal']).toContain(line['level'])
  })

  it('Tempo is configured without what version 3 removed', () => {
    const tempo = read('tempo.yaml')
    const settings = parse(tempo) as Record<string, unknown>
    for (const removed of ['ingester', 'ingester_client', 'compactor', 'metrics_generator_client'])
      expect(settings).not.toHaveProperty(removed)
    expect(JSON.stringify(settings)).not.toMatch(/local[_-]blocks/)
  })

  const missing = !hasPromtool && !isRequired
  it.skipIf(missing)(
    `promtool checks and tests the rules${missing ? ' (skipped: promtool is not installed)' : ''}`,
    () => {
      const cwd = join(deploy, 'prometheus')
      for (const args of [
        ['check', 'rules', 'rules.yml'],
        ['test', 'rules', 'rules.test.yml'],
      ]) {
        const result = spawnSync('promtool', args, { cwd, encoding: 'utf8' })
        expect(result.stdout + result.stderr).toContain('SUCCESS')
        expect(result.status).toBe(0)
      }
    },
  )
})

function readdirOrFile(path: string): void {
  try {
    readdirSync(join(deploy, path))
  } catch {
    read(path)
  }
}
