/**
 * Debian's Prometheus scrapes the real server with the admin key: counters are what the answers said, exemplars lead to traces that were
 * kept, and every query of the dashboards is one it understands. At the full level.
 */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { OtlpReceiver } from './otlp-receiver.ts'
import { ServerProcess } from './server-process.ts'

const isFull = (process.env['MINISERVE_TEST_LEVEL'] ?? 'default') !== 'default'
const isInstalled = spawnSync('prometheus', ['--version']).status === 0
const isRequired = (process.env['MINISERVE_REQUIRE'] ?? '').split(',').includes('promtool')
const why = isFull ? (isInstalled || isRequired ? null : 'prometheus is not installed') : 'only at the full level'

const DASHBOARDS = fileURLToPath(new URL('../../deploy/grafana/dashboards/', import.meta.url))
const NUM_REQUESTS = 40
const ADMIN = { authorization: 'Bearer root' }

describe.skipIf(why !== null)(`Prometheus${why === null ? '' : ` (skipped: ${why})`}`, () => {
  let receiver: OtlpReceiver
  let server: ServerProcess
  let prometheus: ReturnType<typeof spawn>
  let folder: string
  let url: string
  let numTokensOut = 0

  beforeAll(async () => {
    receiver = await OtlpReceiver.start()
    server = await ServerProcess.start(
      [
        '--otlp-traces-endpoint',
        receiver.url,
        '--log-level=debug',
        '--trace-baseline=0.4',
        '--api-key=a',
        '--api-key=b',
        '--admin-key=root',
      ],
      { OTEL_BSP_SCHEDULE_DELAY: '20' },
    )
    for (let i = 0; i < NUM_REQUESTS; i++) {
      const key = { authorization: `Bearer ${i % 2 === 0 ? 'a' : 'b'}` }
      const body = { prompt: `Request ${i}`, max_tokens: 1 + (i % 5), ignore_eos: true }
      const response = await server.post('/v1/completions', body, key)
      numTokensOut += ((await response.json()) as { usage: { completion_tokens: number } }).usage.completion_tokens
    }
    folder = mkdtempSync(join(tmpdir(), 'miniserve-prometheus-'))
    writeFileSync(
      join(folder, 'prometheus.yml'),
      `global: { scrape_interval: 1s }
scrape_configs:
  - job_name: miniserve
    authorization: { credentials: root }
    static_configs: [{ targets: ['${new URL(server.url).host}'] }]
`,
    )
    const flags = ['config.file=prometheus.yml', 'storage.tsdb.path=data', 'web.listen-address=127.0.0.1:0']
    prometheus = spawn(
      'prometheus',
      [...flags, 'enable-feature=exemplar-storage'].map((flag) => `--${flag}`),
      {
        cwd: folder,
        stdio: ['ignore', 'ignore', 'pipe'],
      },
    )
    url = await listeningUrl(prometheus)
    // A scrape is complete, and what the one before it brought is stored, when the next one asks.
    const numScrapes = () =>
      server.logs.filter((line) => line.msg === 'response.sent' && line['route'] === '/metrics').length
    await server.waitForLog(() => numScrapes() >= 3)
  })

  afterAll(async () => {
    prometheus?.kill('SIGTERM')
    if (prometheus?.exitCode === null) await once(prometheus, 'exit')
    await server?.stop()
    await receiver?.close()
    if (folder) rmSync(folder, { recursive: true, force: true })
  })

  async function api<T>(path: string, parameters: Readonly<Record<string, string>>): Promise<T> {
    const response = await fetch(`${url}/api/v1/${path}?${new URLSearchParams(parameters).toString()}`)
    const answer = (await response.json()) as { status: string; data: T; error?: string }
    expect(answer.error ?? '').toBe('')
    expect(answer.status).toBe('success')
    return answer.data
  }

  /** Values of a query by the labels named. */
  async function values(query: string, label = '__name__'): Promise<Readonly<Record<string, number>>> {
    interface Vector {
      readonly result: readonly {
        readonly metric: Readonly<Record<string, string>>
        readonly value: [number, string]
      }[]
    }
    const { result } = await api<Vector>('query', { query })
    return Object.fromEntries(result.map(({ metric, value }) => [metric[label] ?? '', Number(value[1])]))
  }

  it('reads what the server counted', async () => {
    const { activeTargets } = await api<{ activeTargets: { health: string; lastError: string }[] }>('targets', {})
    expect(activeTargets).toMatchObject([{ health: 'up', lastError: '' }])
    expect(await values('sum(miniserve_generation_tokens_total)')).toEqual({ '': numTokensOut })
    expect(await values('sum(miniserve_e2e_request_latency_seconds_count)')).toEqual({ '': NUM_REQUESTS })
    const byKey = await values('sum by (key_id) (miniserve_key_tokens_total{direction="out"})', 'key_id')
    expect(Object.keys(byKey)).toHaveLength(2)
    expect(Object.keys(byKey)).not.toContain('others')
    const memory = await values('miniserve_device_memory_bytes', 'use')
    expect(Object.keys(memory).sort()).toEqual(['kv_cache', 'scratch', 'weights'])
    for (const bytes of Object.values(memory)) expect(bytes).toBeGreaterThan(0)
  })

  it('has exemplars that lead to kept traces', async () => {
    interface Series {
      readonly exemplars: readonly { readonly labels: { readonly trace_id: string }; readonly value: string }[]
    }
    const now = Date.now() / 1000
    const series = await api<readonly Series[]>('query_exemplars', {
      query: 'miniserve_time_to_first_token_seconds_bucket',
      start: String(now - 3600),
      end: String(now + 60),
    })
    const exemplars = series.flatMap((one) => one.exemplars)
    expect(exemplars.length).toBeGreaterThan(0)
    const numKept = new Set(receiver.spans.map((span) => span.traceId)).size
    expect(numKept).toBeLessThan(NUM_REQUESTS)
    for (const { labels, value } of exemplars) {
      const root = receiver.spans.find(({ traceId, name }) => traceId === labels.trace_id && name === 'http.handler')
      const events = receiver.spans.filter(({ traceId }) => traceId === labels.trace_id).flatMap((span) => span.events)
      const first = events.find(({ name }) => name === 'llm.first_token')
      // The span's attribute counts from the engine's queue; the metric, from the arrival of the request.
      const sinceArrivalMs = Number(first!.time - root!.start) / 1e6
      expect(Math.abs(Number(value) * 1000 - sinceArrivalMs)).toBeLessThan(2)
      expect((await server.get(`/traces/${labels.trace_id}`, ADMIN)).status).toBe(200)
    }
  })

  it('understands every query of the dashboards', async () => {
    const boards = readdirSync(DASHBOARDS).map(
      (name) =>
        JSON.parse(readFileSync(join(DASHBOARDS, name), 'utf8')) as { panels: { targets: { expr?: string }[] }[] },
    )
    const queries = boards.flatMap(({ panels }) =>
      panels.flatMap(({ targets }) => targets.flatMap((t) => t.expr ?? [])),
    )
    expect(queries.length).toBeGreaterThan(20)
    for (const query of queries) {
      const filled = query.replaceAll(/\$__(rate_interval|range)/g, '1m').replaceAll(/\$(input|output)_price/g, '1')
      await api('query', { query: filled })
    }
  })
})

/** The address that a Prometheus on any free port says it listens on. */
async function listeningUrl({ stderr }: ReturnType<typeof spawn>): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = ''
    stderr?.on('data', (data) => {
      text += String(data)
      const address = /"Listening on" address=(\S+)/.exec(text)?.[1]
      if (address !== undefined) resolve(`http://${address}`)
    })
    stderr?.once('end', () => reject(new Error(`Prometheus ended before it listened:\n${text}`)))
  })
}
