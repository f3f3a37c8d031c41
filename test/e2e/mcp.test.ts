/** The Model Context Protocol as its official client speaks it, against the real process. */
import { Client } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { ServerProcess } from './server-process.ts'

let server: ServerProcess
let client: Client
const KEY = { authorization: 'Bearer k1' }

beforeAll(async () => {
  server = await ServerProcess.start(['--api-key', 'k1'])
  const documents = [
    { id: 'museum', text: 'The museum of Lorvik was founded by Mira Talven in 1902.' },
    { id: 'bridge', text: 'The old bridge over the Senn is 85 metres long.' },
  ]
  await (await server.post('/v1/rag/documents', { index: 'town', documents }, KEY)).json()
  client = new Client({ name: 'test', version: '1' })
  const transport = new StreamableHTTPClientTransport(new URL(`${server.url}/mcp`), { requestInit: { headers: KEY } })
  // The SDK's own type of its transport lacks exactOptionalPropertyTypes.
  await client.connect(transport as Parameters<Client['connect']>[0])
})

afterAll(async () => {
  await client?.close()
  await server?.stop()
})

const call = async (name: string, args: Record<string, unknown>) => {
  const result = await client.callTool({ name, arguments: args })
  return result as { isError?: boolean; structuredContent?: Record<string, unknown>; content: { text: string }[] }
}

it('offers three tools that only read', async () => {
  const { tools } = await client.listTools()
  expect(tools.map(({ name }) => name).sort()).toEqual(['get_document', 'list_indexes', 'search_documents'])
  expect(tools.every(({ annotations }) => annotations?.readOnlyHint === true)).toBe(true)
})

it('finds, lists and reads documents, and each search leaves its trace', async () => {
  const found = await call('search_documents', { query: 'Who founded the museum?', index: 'town', top_n: 1 })
  expect(found.structuredContent).toMatchObject({ index: 'town', documents: [{ id: 'museum' }] })
  expect(JSON.parse(found.content[0]?.text ?? '')).toEqual(found.structuredContent)
  const listed = await call('list_indexes', {})
  expect(listed.structuredContent?.['indexes']).toContainEqual({ name: 'town', documents: 2, chunks: 2 })
  const read = await call('get_document', { id: 'bridge', index: 'town' })
  expect(JSON.stringify(read.structuredContent)).toContain('85 metres')
  const { traces } = (await (await server.get('/v1/traces?route=/mcp', KEY)).json()) as {
    traces: { trace_id: string; num_spans: number }[]
  }
  const searched = traces.find(({ num_spans: numSpans }) => numSpans > 1)
  const validated = await server.get(`/v1/traces/${searched?.trace_id}/validate`, KEY)
  expect(await validated.json()).toMatchObject({ ok: true })
})

it('says what was wrong with a call', async () => {
  expect(await call('search_documents', { query: 'x', index: 'nowhere' })).toMatchObject({ isError: true })
  expect(await call('get_document', { id: 'nothing', index: 'town' })).toMatchObject({ isError: true })
  expect(await call('search_documents', { query: 7 })).toMatchObject({ isError: true })
})

it('asks for a key', async () => {
  const body = { jsonrpc: '2.0', id: 1, method: 'tools/list' }
  expect((await server.post('/mcp', body)).status).toBe(401)
})
