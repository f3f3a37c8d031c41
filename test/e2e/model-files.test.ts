/** What lies beside a model's weights belongs to that model: taken from where a hub id resolved to, and left out for a remote engine. */
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { ServerProcess } from './server-process.ts'

const SHA = '0123456789abcdef0123456789abcdef01234567'
const HEADER = 'Read and answer, reader.'
let cache: string
let server: ServerProcess

beforeAll(async () => {
  cache = mkdtempSync(join(tmpdir(), 'miniserve-hub-'))
  const folder = join(cache, 'models--house--reader')
  const snapshot = join(folder, 'snapshots', SHA)
  mkdirSync(join(folder, 'refs'), { recursive: true })
  writeFileSync(join(folder, 'refs', 'main'), SHA)
  cpSync(new URL('../../models/mini-1m', import.meta.url).pathname, snapshot, { recursive: true })
  writeFileSync(
    join(snapshot, 'prompt.json'),
    JSON.stringify({
      version: 1,
      header: HEADER,
      document: ' Text: {text}',
      question: ' Question: {question}',
      answer: ' Answer:',
      documents: 1,
      unknown: 'I do not know.',
      stop: [],
    }),
  )
  server = await ServerProcess.start(['--model', 'house/reader'], { HF_HUB_CACHE: cache, HF_HUB_OFFLINE: '1' })
})

afterAll(async () => {
  await server?.stop()
  rmSync(cache, { recursive: true, force: true })
})

const TOWN = { index: 'town', documents: [{ id: 'a', text: 'The mill stands beside the river.' }] }

it('a hub model answers from documents with its own prompt.json', async () => {
  await server.post('/v1/rag/documents', TOWN)
  const asked = { prompt: 'Where does the mill stand?', rag: { index: 'town' }, max_tokens: 1 }
  const answer = (await (await server.post('/v1/completions', asked)).json()) as { usage: { prompt_tokens: number } }
  const expected = `${HEADER} Text: The mill stands beside the river. Question: Where does the mill stand? Answer:`
  const tokenized = (await (await server.post('/tokenize', { prompt: expected })).json()) as { count: number }
  expect(answer.usage.prompt_tokens).toBe(tokenized.count)
})

it("a hub model's generation_config.json gives the defaults: greedy here", async () => {
  const texts = await Promise.all(
    [1, 2, 3].map(async () => {
      const response = await server.post('/v1/completions', { prompt: 'Every morning', max_tokens: 24 })
      return ((await response.json()) as { choices: { text: string }[] }).choices[0]?.text
    }),
  )
  expect(new Set(texts).size).toBe(1)
})

it("a remote engine gets documents without the bundled model's control tokens", async () => {
  const prompts: string[] = []
  const far: Server = createServer((request, response) => {
    let text = ''
    request.on('data', (chunk: Buffer) => (text += chunk.toString()))
    request.on('end', () => {
      response.setHeader('content-type', 'application/json')
      if (request.url === '/v1/models') return response.end('{"object":"list","data":[{"id":"far","object":"model"}]}')
      prompts.push(JSON.stringify(JSON.parse(text)))
      return response.writeHead(500).end('{}')
    })
  })
  await new Promise<void>((resolve) => far.listen(0, '127.0.0.1', resolve))
  const address = far.address()
  const port = typeof address === 'object' && address ? address.port : 0
  const near = await ServerProcess.start(['--engine-url', `http://127.0.0.1:${port}/v1`])
  try {
    await near.post('/v1/rag/documents', TOWN)
    await near.post('/v1/completions', { prompt: 'Where does the mill stand?', rag: { index: 'town' } })
  } finally {
    await near.stop()
    await new Promise((resolve) => far.close(resolve))
  }
  expect(prompts).toHaveLength(1)
  expect(prompts[0]).toContain('The mill stands beside the river.')
  expect(prompts[0]).not.toContain('<|')
})
