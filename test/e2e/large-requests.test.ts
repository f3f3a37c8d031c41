/** Requests that are as they should be, and large: whatever they ask for, others are served meanwhile. */
import { afterAll, beforeAll, expect, it } from 'vitest'
import { MAX_HEALTH_MS, worstHealthMs } from './health-watch.ts'
import { ServerProcess } from './server-process.ts'

let server: ServerProcess
beforeAll(async () => {
  server = await ServerProcess.start(['--device', 'cpu', '--max-queued-requests', '512'])
})
afterAll(async () => {
  await server?.stop()
})

const words = (characters: number): string => 'the quick brown fox jumps '.repeat(Math.ceil(characters / 26))
const ids = (count: number): number[] => Array.from({ length: count }, (_, i) => 1 + (i % 900))
const turns = (count: number) =>
  Array.from({ length: count }, (_, i) => ({ role: i % 2 ? 'assistant' : 'user', content: `turn ${i}` }))

it.each([
  ['/tokenize', 200, { prompt: words(100_000), return_token_strs: true }],
  ['/tokenize', 200, { prompt: 'x'.repeat(100_000) }],
  ['/tokenize', 200, { prompt: Array.from({ length: 256 }, () => words(4000)) }],
  ['/tokenize', 200, { messages: turns(2001) }],
  ['/detokenize', 200, { tokens: ids(250_000) }],
  ['/v1/messages/count_tokens', 200, { messages: [{ role: 'user', content: words(100_000) }] }],
  ['/v1/completions', 400, { prompt: words(15_000_000) }],
  ['/v1/completions', 400, { prompt: Array.from({ length: 40 }, () => words(40_000)), max_tokens: 1 }],
  ['/v1/completions', 200, { prompt: ids(1500), max_tokens: 0, echo: true, logprobs: 20 }],
  ['/v1/completions', 200, { prompt: ids(1000), n: 16, max_tokens: 1, echo: true, logprobs: 20, stream: true }],
  ['/v1/completions', 400, { prompt: ids(7000), n: 128, max_tokens: 1, echo: true, logprobs: 20 }],
  ['/v1/completions', 200, { prompt: 'x', n: 32, max_tokens: 64, logprobs: 20, ignore_eos: true }],
  ['/v1/completions', 400, { prompt: Array.from({ length: 64 }, () => ids(8000)), max_tokens: 1 }],
  ['/v1/chat/completions', 400, { messages: [{ role: 'user', content: words(100_000) }] }],
  ['/v1/responses', 400, { input: words(100_000), store: false }],
  ['/v1/embeddings', 200, { input: Array.from({ length: 2048 }, (_, i) => `text ${i}`) }],
  [
    '/v1/rerank',
    200,
    { query: 'fox', documents: Array.from({ length: 200 }, () => words(60_000)), return_documents: true },
  ],
  ['/v1/embeddings', 200, { input: Array.from({ length: 1000 }, () => ids(400)) }],
  ['/v1/rerank', 200, { query: words(100_000), documents: Array.from({ length: 200 }, (_, i) => `text ${i}`) }],
  ['/v1/rerank', 200, { query: 'fox', documents: [words(10_000_000)] }],
  ['/v1/rag/query', 200, { query: words(5_000_000) }],
] as const)('POST %s: %i, and /health answers in time', async (path, status, body) => {
  const sent = server.post(path, body).then(async (response) => [response.status, (await response.text()).length])
  expect(await worstHealthMs(server, sent)).toBeLessThan(MAX_HEALTH_MS)
  expect((await sent)[0]).toBe(status)
})
