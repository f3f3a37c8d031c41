// The first minute of a user: start to ready, tokens per second of one stream, and how fast /health answers meanwhile.
//   npm run bench -- start [--device cpu|reference|webgpu] [--runs 5]      results: bench/results/start.json
import { mkdirSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, totalmem } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { startServer } from './_server.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const flag = (name, fallback) => {
  const at = process.argv.indexOf(`--${name}`)
  return at < 0 ? fallback : process.argv[at + 1]
}
const devices = flag('device', 'cpu,reference').split(',')
const numRuns = Number(flag('runs', '5'))
const MAX_TOKENS = 512

const quantile = (values, q) =>
  [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * q))]
const median = (values) => quantile(values, 0.5)

async function measure(device) {
  const server = await startServer(['--device', device])
  const { url, readyMs } = server
  try {
    const stream = async () => {
      const response = await fetch(`${url}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({
          prompt: 'The river',
          max_tokens: MAX_TOKENS,
          ignore_eos: true,
          stream: true,
          temperature: 1,
          seed: 1,
        }),
      })
      const text = await response.text()
      return JSON.parse(/"timings":(\{[^}]*\})/.exec(text)[1]).tokens_per_second
    }
    await stream()
    const streaming = { isOver: false }
    const health = []
    const poll = (async () => {
      while (!streaming.isOver) {
        const askedMs = performance.now()
        await (await fetch(`${url}/health`)).text()
        health.push(performance.now() - askedMs)
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
    })()
    const rates = []
    for (let i = 0; i < 3; i++) rates.push(await stream())
    streaming.isOver = true
    await poll
    const alone = []
    for (let i = 0; i < 3; i++) alone.push(await stream())
    return { readyMs, tokensPerSecond: median(alone), tokensPerSecondWhilePolled: median(rates), health }
  } finally {
    await server.stop()
  }
}

const results = []
for (const device of devices) {
  const runs = []
  for (let i = 0; i < numRuns; i++) runs.push(await measure(device))
  const health = runs.flatMap((run) => run.health)
  results.push({
    device,
    runs: numRuns,
    readySeconds: median(runs.map((run) => run.readyMs)) / 1000,
    slowestReadySeconds: Math.max(...runs.map((run) => run.readyMs)) / 1000,
    tokensPerSecond: median(runs.map((run) => run.tokensPerSecond)),
    healthP50Ms: quantile(health, 0.5),
    healthP99Ms: quantile(health, 0.99),
    healthRequests: health.length,
  })
}
const report = {
  date: new Date().toISOString(),
  hardware: {
    cpu: cpus()[0]?.model,
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 1024 ** 3),
    loadAverage: loadavg()[0],
  },
  node: process.version,
  maxTokens: MAX_TOKENS,
  results,
}
mkdirSync(join(root, 'bench', 'results'), { recursive: true })
writeFileSync(join(root, 'bench', 'results', 'start.json'), `${JSON.stringify(report, null, 2)}\n`)
console.table(
  results.map((row) =>
    Object.fromEntries(
      Object.entries(row).map(([key, value]) => [key, typeof value === 'number' ? Number(value.toFixed(2)) : value]),
    ),
  ),
)
