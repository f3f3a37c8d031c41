/** Keys as owners of document indexes, in every route that names one: nothing tells one key of another's. */
import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ServerProcess } from './server-process.ts'

let folder: string
let server: ServerProcess

const entry = (name: string, more: object = {}) => ({
  name,
  sha256: createHash('sha256').update(`key-${name}`).digest('hex'),
  ...more,
})
const as = (name: string) => ({ authorization: `Bearer key-${name}` })
const document = (id: string, text: string) => ({ id, text })

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'miniserve-tenants-'))
  const path = join(folder, 'keys.json')
  const keys = [
    entry('alice', { indexes: { handbook: 'read' } }),
    entry('bob'),
    entry('ci', { indexes: { handbook: 'write' } }),
    entry('ops', { role: 'admin' }),
  ]
  writeFileSync(path, JSON.stringify({ keys }))
  server = await ServerProcess.start(['--key-file', path])
})

afterAll(async () => {
  await server?.stop()
  rmSync(folder, { recursive: true, force: true })
})

async function put(who: string, index: string | undefined, documents: readonly object[]) {
  const response = await server.post('/v1/rag/documents', { index, documents }, as(who))
  return { status: response.status, body: (await response.json()) as Record<string, unknown> }
}

const remove = (path: string, headers: Readonly<Record<string, string>>): Promise<Response> =>
  fetch(new URL(path, server.url), { method: 'DELETE', headers })

async function query(who: string, index: string | undefined, question = 'walnut') {
  const response = await server.post('/v1/rag/query', { query: question, index }, as(who))
  const body = (await response.json()) as { documents?: { id: string }[]; error?: { code: string } }
  return { status: response.status, ids: body.documents?.map(({ id }) => id), error: body.error }
}

async function list(who: string) {
  const { indexes } = (await (await server.get('/v1/rag/indexes', as(who))).json()) as {
    indexes: { name: string; owner: string | null }[]
  }
  return indexes.map(({ name, owner }) => `${owner ?? '-'}/${name}`).toSorted()
}

async function callTool(who: string, name: string, args: object) {
  const message = { jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name, arguments: args } }
  const accept = { accept: 'application/json, text/event-stream' }
  const response = await server.post('/mcp', message, { ...as(who), ...accept })
  return JSON.stringify(await response.json())
}

/** Everything of an answer that is not the request's own: ids and times. */
async function answerOf(response: Response) {
  return { status: response.status, body: await response.text() }
}

describe('an index', () => {
  it('belongs to the key that made it, and each key has names of its own', async () => {
    expect(await put('alice', 'notes', [document('a', 'walnut bread of alice')])).toMatchObject({ status: 200 })
    expect(await query('bob', 'notes')).toMatchObject({ status: 404, error: { code: 'index_not_found' } })
    expect(await put('bob', 'notes', [document('b', 'walnut cake of bob')])).toMatchObject({ status: 200 })
    expect(await query('alice', 'notes')).toMatchObject({ status: 200, ids: ['a'] })
    expect(await query('bob', 'notes')).toMatchObject({ status: 200, ids: ['b'] })
    expect(await list('alice')).toEqual(['-/docs', 'alice/notes'])
    expect(await list('bob')).toEqual(['-/docs', 'bob/notes'])
  })

  it('without a name is the key’s own as well', async () => {
    expect(await put('alice', undefined, [document('d', 'walnut of the default')])).toMatchObject({ status: 200 })
    expect(await query('alice', undefined)).toMatchObject({ ids: ['d'] })
    expect((await query('bob', undefined)).ids).not.toContain('d')
    expect((await remove('/v1/rag/indexes/docs', as('alice'))).status).toBe(200)
    expect(await list('alice')).toContain('-/docs')
  })

  it('of another key and one that is not there are answered alike, by every route', async () => {
    await put('alice', 'secret', [document('plan', 'walnut plan')])
    const routes: ((index: string) => Promise<Response>)[] = [
      (index) => server.post('/v1/rag/query', { query: 'plan', index }, as('bob')),
      (index) => server.get(`/v1/rag/documents/plan?index=${index}`, as('bob')),
      (index) => remove(`/v1/rag/documents/plan?index=${index}`, as('bob')),
      (index) => remove(`/v1/rag/indexes/${index}`, as('bob')),
      (index) => server.post('/v1/completions', { prompt: 'plan', max_tokens: 2, rag: { index } }, as('bob')),
      (index) =>
        server.post(
          '/v1/chat/completions',
          { messages: [{ role: 'user', content: 'plan' }], max_tokens: 2, rag: { index } },
          as('bob'),
        ),
      (index) => server.post('/v1/responses', { input: 'plan', max_output_tokens: 16, rag: { index } }, as('bob')),
      (index) =>
        server.post(
          '/v1/messages',
          { messages: [{ role: 'user', content: 'plan' }], max_tokens: 2, rag: { index } },
          as('bob'),
        ),
    ]
    for (const ask of routes) {
      const [foreign, absent] = [await answerOf(await ask('secret')), await answerOf(await ask('nothere'))]
      expect([foreign.status, absent.status]).toEqual([404, 404])
      const plain = (body: string): string => body.replaceAll(/"(request_id|id)":"[^"]*"/g, '')
      expect(plain(foreign.body)).toBe(plain(absent.body))
    }
    for (const index of ['secret', 'alice:secret']) {
      expect((await query('bob', index)).status).toBe(404)
      expect(await callTool('bob', 'search_documents', { query: 'plan', index })).toContain('no index of that name')
      expect(await callTool('bob', 'get_document', { id: 'plan', index })).toContain('no index of that name')
    }
    expect(await callTool('bob', 'list_indexes', {})).not.toContain('secret')
    expect(await callTool('alice', 'list_indexes', {})).toContain('secret')
    expect((await query('alice', 'secret')).ids).toEqual(['plan'])
  })

  it('takes JSON lines and files into the key’s own', async () => {
    const send = (path: string, type: string, body: string) =>
      fetch(new URL(path, server.url), { method: 'POST', headers: { ...as('alice'), 'content-type': type }, body })
    const lines = await send('/v1/rag/documents?index=lines', 'application/x-ndjson', '{"id":"l","text":"walnut"}\n')
    expect(lines.status).toBe(200)
    const file = await send('/v1/rag/files?index=lines&name=f.md', 'application/octet-stream', '# Walnut\n\nAn oil.\n')
    expect(file.status).toBe(200)
    expect((await query('alice', 'lines')).ids?.toSorted()).toEqual(['f.md', 'l'])
    expect((await query('bob', 'lines')).status).toBe(404)
  })
})

describe('a shared index', () => {
  it('is for the keys that the file grants it to, by what it grants', async () => {
    expect(await put('ci', 'handbook', [document('h', 'walnut handbook')])).toMatchObject({ status: 200 })
    expect(await query('alice', 'handbook')).toMatchObject({ status: 200, ids: ['h'] })
    expect(await query('bob', 'handbook')).toMatchObject({ status: 404 })
    expect(await list('alice')).toContain('-/handbook')
    expect(await list('bob')).not.toContain('-/handbook')
    expect(await put('alice', 'handbook', [document('x', 'walnut')])).toMatchObject({ status: 400 })
    expect((await remove('/v1/rag/documents/h?index=handbook', as('alice'))).status).toBe(400)
    expect((await remove('/v1/rag/indexes/handbook', as('alice'))).status).toBe(400)
    expect(await query('ci', 'handbook')).toMatchObject({ ids: ['h'] })
  })
})

describe('an admin key', () => {
  it('sees every index, and names one that two keys have by its key', async () => {
    const seen = await list('ops')
    expect(seen).toEqual(
      expect.arrayContaining(['alice/alice:notes', 'bob/bob:notes', 'alice/secret', '-/handbook', '-/docs']),
    )
    expect(await query('ops', 'secret')).toMatchObject({ ids: ['plan'] })
    expect(await query('ops', 'bob:notes')).toMatchObject({ ids: ['b'] })
    expect(await query('ops', 'notes')).toMatchObject({ status: 404 })
    expect((await remove('/v1/rag/indexes/alice:notes', as('ops'))).status).toBe(200)
    expect(await query('ops', 'notes')).toMatchObject({ ids: ['b'] })
    expect(await query('alice', 'notes')).toMatchObject({ status: 404 })
  })
})
