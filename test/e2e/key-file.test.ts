/** `--key-file` against the real process: tenants by name, their limits, and a change without a restart. */
import { createHash } from 'node:crypto'
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { readFrames, ServerProcess } from './server-process.ts'

let folder: string
let path: string
let server: ServerProcess

const entry = (name: string, key: string, more: object = {}) => ({
  name,
  sha256: createHash('sha256').update(key).digest('hex'),
  ...more,
})
/** As ConfigMaps and editors do it: the new file takes the old one's place. */
function write(...keys: unknown[]): void {
  writeFileSync(`${path}.new`, JSON.stringify({ keys }))
  renameSync(`${path}.new`, path)
}
const auth = (key: string) => ({ authorization: `Bearer ${key}` })
const body = { prompt: 'The river', max_tokens: 4 }

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'miniserve-keys-'))
  path = join(folder, 'keys.json')
  write(
    entry('alice', 'key-a', { limits: { requests_per_minute: 2 } }),
    entry('bob', 'key-b', { limits: { concurrency: 1, tokens_per_minute: 600 } }),
    entry('ops', 'key-o', { role: 'admin' }),
  )
  server = await ServerProcess.start(['--key-file', path, '--metrics-port', '0'])
})

afterAll(async () => {
  await server?.stop()
  rmSync(folder, { recursive: true, force: true })
})

it('knows its keys and no other', async () => {
  expect((await server.post('/v1/completions', body)).status).toBe(401)
  expect((await server.post('/v1/completions', body, auth('other'))).status).toBe(401)
  expect((await server.get('/v1/models', auth('key-a'))).status).toBe(200)
})

it('holds a key to its requests per minute, and tells it what is left', async () => {
  const first = await server.post('/v1/completions', body, auth('key-a'))
  expect(first.status).toBe(200)
  expect(first.headers.get('x-ratelimit-limit-requests')).toBe('2')
  expect(first.headers.get('x-ratelimit-remaining-requests')).toBe('1')
  await first.text()
  await (await server.post('/v1/completions', body, auth('key-a'))).text()
  const refused = await server.post('/v1/completions', body, auth('key-a'))
  expect(refused.status).toBe(429)
  // Half a minute for the next of two a minute, not the second that a full queue is worth.
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(1)
  expect(await refused.json()).toMatchObject({ error: { code: 'rate_limit_exceeded', type: 'rate_limit_error' } })
  // Others are not concerned, nor are questions that cost nothing.
  expect((await server.post('/v1/completions', body, auth('key-o'))).status).toBe(200)
  expect((await server.get('/v1/models', auth('key-a'))).status).toBe(200)
})

it('holds a key to its requests at the same time until a stream has ended, and charges its tokens', async () => {
  const running = await server.post(
    '/v1/completions',
    { ...body, max_tokens: 500, ignore_eos: true, stream: true },
    auth('key-b'),
  )
  expect((await server.post('/v1/completions', body, auth('key-b'))).status).toBe(429)
  expect((await readFrames(running)).at(-1)).toBe('[DONE]')
  let next = await server.post('/v1/completions', body, auth('key-b'))
  // The socket's close comes a moment after its last byte.
  while (next.status === 429) next = await server.post('/v1/completions', body, auth('key-b'))
  // Ten tokens a second come back: a machine would have to be very slow to give back half of what was used.
  expect(Number(next.headers.get('x-ratelimit-remaining-tokens'))).toBeLessThan(350)
})

it('names the tenant in metrics, to the admin', async () => {
  const text = await (await server.get('/metrics', auth('key-o'))).text()
  expect(text).toMatch(/miniserve_key_tokens_total\{[^}]*key_id="bob"/)
})

it('serves metrics on a port of their own without a key, and nothing else there', async () => {
  const { url } = await server.waitForLog(({ msg }) => msg === 'server.metrics_ready')
  const at = (path: string, init?: RequestInit) => fetch(`${String(url)}${path}`, init)
  const response = await at('/metrics', { headers: { accept: 'application/openmetrics-text; version=1.0.0' } })
  expect(response.status).toBe(200)
  const text = await response.text()
  expect(text).toMatch(/^miniserve_num_requests_waiting(\{[^}]*\})? 0$/m)
  // The sum of all keys: no name, and no trace that hers is.
  expect(text).toMatch(/miniserve_key_tokens_total\{[^}]*key_id="others"[^}]*\} [1-9]/)
  expect(text).not.toMatch(/bob|alice|trace_id/)
  expect((await server.get('/metrics')).status).toBe(401)
  for (const path of ['/', '/health', '/v1/models', '/v1/traces', '/metrics/', '//metrics'])
    expect((await at(path)).status, path).toBe(404)
  expect((await at('/metrics', { method: 'POST', body: 'x' })).status).toBe(405)
})

it('takes a changed file over, and keeps the keys where it does not fit', async () => {
  write(entry('carol', 'key-c'))
  await server.waitForLog(({ msg }) => msg === 'keys.reloaded')
  expect((await server.get('/v1/models', auth('key-c'))).status).toBe(200)
  expect((await server.get('/v1/models', auth('key-a'))).status).toBe(401)
  writeFileSync(path, '{"keys": [')
  const failure = await server.waitForLog(({ msg }) => msg === 'keys.reload_failed')
  expect(failure).toMatchObject({ reason: `${path}: expected JSON, found something else` })
  expect((await server.get('/v1/models', auth('key-c'))).status).toBe(200)
})
