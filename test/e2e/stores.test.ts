/** Stores of documents that are taken away, or shared, while the real process uses them (fault-rows.ts). At the full level. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Client } from 'pg'
import { expect, it, onTestFinished } from 'vitest'
import { postgresBinaries, startPostgres } from '../../bench/lib/postgres.mjs'
import { FAULTS } from './fault-rows.ts'
import { ServerProcess } from './server-process.ts'

const isFull = (process.env['MINISERVE_TEST_LEVEL'] ?? 'default') !== 'default'
const binaries = isFull ? postgresBinaries() : null

const document = (id: string) => ({
  id,
  text: `# ${id}\n\nWhat ${id} tells of the harbour, the river and the old town.`,
})
const put = (server: ServerProcess, ids: readonly string[]): Promise<Response> =>
  server.post('/v1/rag/documents', { index: 'notes', documents: ids.map(document) })
const has = async (server: ServerProcess, id: string): Promise<boolean> =>
  (await server.get(`/v1/rag/documents/${id}?index=notes`)).status === 200

it.runIf(binaries !== null)(FAULTS.storeConnections.fault, { timeout: 120_000 }, async () => {
  const database = await startPostgres(binaries ?? '')
  onTestFinished(() => database.stop())
  const server = await ServerProcess.start([
    '--rag-store',
    'pgvector',
    '--rag-store-url',
    database.url,
    '--log-file',
    '',
  ])
  const admin = new Client({ connectionString: database.url })
  admin.on('error', () => undefined)
  try {
    await admin.connect()
    expect((await put(server, ['first'])).status).toBe(200)
    const statuses = new Set<number>()
    for (let round = 0; round < 12; round++) {
      const asked = [
        put(server, [`d${round}`]),
        ...Array.from({ length: 4 }, () => server.post('/v1/rag/query', { index: 'notes', query: 'harbour' })),
      ]
      await admin.query(
        `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'miniserve%'`,
      )
      for (const response of await Promise.all(asked)) {
        statuses.add(response.status)
        await response.text()
      }
    }
    expect([...statuses].filter((status) => status !== 200 && status !== 503)).toEqual([])
    expect((await server.get('/ready')).status).toBe(200)
    expect((await put(server, ['last'])).status).toBe(200)
    for (const id of ['first', 'last']) expect(await has(server, id), id).toBe(true)
    // Gone for good: what does without it goes on.
    const stopping = database.stop()
    await Promise.all([1, 2, 3].map(() => server.post('/v1/rag/query', { index: 'notes', query: 'harbour' })))
    await stopping
    expect((await server.post('/v1/rag/query', { index: 'notes', query: 'harbour' })).status).toBe(503)
    expect((await server.post('/v1/completions', { prompt: 'The river', max_tokens: 2 })).status).toBe(200)
  } finally {
    await admin.end().catch(() => undefined)
    expect(await server.stop()).toEqual({ code: 0, signal: null })
  }
})

it.runIf(isFull)(FAULTS.twoWriters.fault, { timeout: 180_000 }, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'miniserve-writers-'))
  const start = () => ServerProcess.start(['--log-file', ''], { MINISERVE_DATA_DIR: folder })
  const stored: string[] = []
  let kept = await start()
  try {
    for (let round = 0; round < 4; round++) {
      const killed = await start()
      const writing = [kept, killed].map(async (server, which) => {
        for (let i = 0; i < 12; i++) {
          const ids = [`${round}-${which}-${i}-a`, `${round}-${which}-${i}-b`]
          const response = await put(server, ids).catch(() => null)
          if (response?.status === 200) stored.push(...ids)
          else if (which === 0) expect.unreachable(`the server that goes on answered ${response?.status}`)
          // Somewhere in the middle of the next one.
          if (which === 1 && i === 2 + round) setImmediate(() => killed.signal('SIGKILL'))
        }
      })
      await Promise.all(writing)
      await killed.exited
    }
    await kept.stop()
    kept = await start()
    for (const id of stored) expect(await has(kept, id), id).toBe(true)
    expect(stored.length).toBeGreaterThan(4 * 24)
    expect(readdirSync(folder, { recursive: true }).filter((name) => String(name).endsWith('.lock'))).toEqual([])
  } finally {
    expect(await kept.stop()).toEqual({ code: 0, signal: null })
    rmSync(folder, { recursive: true, force: true })
  }
})
