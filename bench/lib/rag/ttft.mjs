// The whole way, through the server over the bundled index: time to first token without retrieval, with it for new questions, for repeated
// ones, and while documents are taken in.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import { root } from '../run.mjs'
import { mean, quantile, round } from '../stats.mjs'
import { syntheticDocuments, table } from './common.mjs'

const SUBJECTS = [
  'span tree',
  'prefix cache',
  'rag index',
  'port flag',
  'trace store',
  'rerank',
  'embeddings',
  'stop strings',
  'queue',
  'device',
]
const START_MS = 60_000

async function startServer(scratch) {
  const server = spawn(process.execPath, [join(root, 'dist', 'main.js'), '--port', '0', '--log-file', ''], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, MINISERVE_CACHE_DIR: join(scratch, 'cache'), MINISERVE_DATA_DIR: join(scratch, 'data') },
  })
  const url = await new Promise((resolve, reject) => {
    let text = ''
    const late = setTimeout(() => reject(new Error(`no server after ${START_MS / 1000} s: ${text}`)), START_MS)
    server.stderr.setEncoding('utf8').on('data', (piece) => {
      text += piece
      const ready = /ready on (http:\/\/\S+)/.exec(text)
      if (ready) {
        clearTimeout(late)
        resolve(ready[1])
      }
    })
    server.once('exit', (code) => {
      clearTimeout(late)
      reject(new Error(`the server ended with code ${code}: ${text}`))
    })
  }).catch((error) => {
    server.kill('SIGKILL')
    throw error
  })
  return { server, url }
}

/** A streamed completion: milliseconds to its first text, and the share of its prompt that came from the prefix cache. */
async function firstToken(url, body) {
  const started = performance.now()
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ max_tokens: 8, temperature: 0, stream: true, ignore_eos: true, ...body }),
  })
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`)
  let ms = Number.NaN
  /** @type {any} */
  let usage = null
  for await (const line of createInterface({ input: Readable.fromWeb(/** @type {any} */ (response.body)) })) {
    const frame = line.startsWith('data: {') ? JSON.parse(line.slice(6)) : null
    if (frame?.error) throw new Error(frame.error.message)
    if (frame?.choices?.[0]?.text && Number.isNaN(ms)) ms = performance.now() - started
    usage = frame?.usage ?? usage
  }
  return {
    ms: Number.isNaN(ms) ? performance.now() - started : ms,
    promptTokens: usage.prompt_tokens,
    cachedTokens: usage.prompt_tokens_details.cached_tokens,
  }
}

const summary = (request, runs) => ({
  request,
  p50Ms: round(
    quantile(
      runs.map(({ ms }) => ms),
      0.5,
    ),
    1,
  ),
  p99Ms: round(
    quantile(
      runs.map(({ ms }) => ms),
      0.99,
    ),
    1,
  ),
  promptTokens: round(mean(runs.map(({ promptTokens }) => promptTokens)), 0),
  cachedTokens: round(mean(runs.map(({ cachedTokens }) => cachedTokens)), 0),
})

export async function ttft({ isQuick, scratch }) {
  const { server, url } = await startServer(scratch)
  try {
    const questions = SUBJECTS.slice(0, isQuick ? 3 : undefined).flatMap((subject) => [
      `What is the ${subject}?`,
      `How do I set the ${subject}?`,
      `Where is the ${subject} described?`,
    ])
    // The first one waits for the models and for the bundled index, which is built when its folder is empty.
    const first = await firstToken(url, { prompt: 'What is miniserve?', rag: true })
    /** @type {Awaited<ReturnType<typeof firstToken>>[][]} */
    const [plain, cold, warm, busy] = [[], [], [], []]
    for (const prompt of questions) {
      plain.push(await firstToken(url, { prompt }))
      cold.push(await firstToken(url, { prompt, rag: true }))
      warm.push(await firstToken(url, { prompt, rag: true }))
    }
    const leave = new AbortController()
    const ingesting = fetch(`${url}/v1/rag/documents`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ index: 'bench', documents: syntheticDocuments(isQuick ? 100 : 1000) }),
      signal: leave.signal,
    }).then(
      (response) => response.ok,
      () => false,
    )
    let isIngesting = true
    void ingesting.then(() => (isIngesting = false))
    for (const prompt of questions) {
      if (isIngesting) busy.push(await firstToken(url, { prompt: `${prompt} Again`, rag: true }))
    }
    leave.abort()
    await ingesting
    const rows = [
      summary('no retrieval', plain),
      summary('retrieval, new question (cold)', cold),
      summary('retrieval, repeated question (warm)', warm),
      ...(busy.length > 0 ? [summary('retrieval, new question, while ingesting', busy)] : []),
    ]
    table(
      'Time to first token, bundled models',
      rows.map((row) => ({
        request: row.request,
        'p50 (ms)': row.p50Ms,
        'p99 (ms)': row.p99Ms,
        'prompt tokens': row.promptTokens,
        'of them cached': row.cachedTokens,
      })),
    )
    console.log(`first request after the start, bundled index built: ${round(first.ms, 0)} ms`)
    return { firstRequestMs: round(first.ms, 1), rows }
  } finally {
    server.kill('SIGTERM')
    if (server.exitCode === null && server.signalCode === null) await once(server, 'exit')
  }
}
