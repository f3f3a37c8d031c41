// The first minute of a user: start to ready, tokens per second of one stream, and how fast /health answers meanwhile.
//   npm run bench -- start [--device cpu|reference|webgpu] [--runs 5]      results: bench/results/start.json
import { parseArgs } from 'node:util'
import { run } from './lib/run.mjs'
import { startServer } from './lib/server.mjs'
import { median, quantile, round } from './lib/stats.mjs'

const { values: flags } = parseArgs({
  options: {
    device: { type: 'string', default: 'cpu,reference' },
    runs: { type: 'string', default: '5' },
  },
})
const devices = flags.device.split(',')
const numRuns = Number(flags.runs)
const MAX_TOKENS = 512

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
      return JSON.parse(/"timings":(\{[^}]*\})/.exec(text)?.[1] ?? '{}').tokens_per_second
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

await run('start', async (save) => {
  const results = []
  for (const device of devices) {
    const runs = []
    for (let i = 0; i < numRuns; i++) runs.push(await measure(device))
    const health = runs.flatMap((one) => one.health)
    results.push({
      device,
      runs: numRuns,
      readySeconds: round(median(runs.map((one) => one.readyMs)) / 1000, 3),
      slowestReadySeconds: round(Math.max(...runs.map((one) => one.readyMs)) / 1000, 3),
      tokensPerSecond: round(median(runs.map((one) => one.tokensPerSecond)), 1),
      healthP50Ms: round(quantile(health, 0.5)),
      healthP99Ms: round(quantile(health, 0.99)),
      healthRequests: health.length,
    })
  }
  console.table(results)
  save({ maxTokens: MAX_TOKENS, results })
})
