// What serving costs beside the compute: planning and committing a step, delivering a token (detokenizing, stop strings, its frame), and the serving
// thread's CPU time a token over real HTTP streams, with a runner whose tokens are there at once (bench/_stub-server.mjs).
//   npm run bench -- engine [--model PATH] [--concurrency 1,16,64] [--seconds 5] [--tokens 256] [--only schedule|delivery|http]
// Results: bench/results/engine.json
import { fork } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { cpus, loadavg } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { closedLoop, complete, createAgent } from './_load.mjs'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: join(root, 'models', 'mini-1m') },
    concurrency: { type: 'string', default: '1,16,64' },
    seconds: { type: 'string', default: '5' },
    tokens: { type: 'string', default: '256' },
    rounds: { type: 'string', default: '1' },
    only: { type: 'string' },
  },
})
const wants = (name) => flags.only === undefined || flags.only.split(',').includes(name)
const rounded = (value, digits = 1) => Number(value.toFixed(digits))

/** A server process, loaded at one concurrency; microseconds of its serving thread a token. */
async function overHttp(concurrency) {
  const options = { model: flags.model, maxNumSeqs: 64, runAhead: 1, traceDetail: 'contract' }
  const child = fork(join(root, 'bench', '_stub-server.mjs'), [JSON.stringify(options)], {
    execArgv: process.env.BENCH_PROFILE ? ['--cpu-prof', `--cpu-prof-dir=${process.env.BENCH_PROFILE}`] : [],
  })
  const answer = () => new Promise((resolve) => child.once('message', resolve))
  const agent = createAgent()
  try {
    const { port } = await answer()
    const url = `http://127.0.0.1:${port}`
    let numTokens = 0
    let numReads = 0
    let numSent = 0
    const send = async () => {
      const result = await complete(agent, url, {
        prompt: `request ${numSent++} of many`,
        max_tokens: Number(flags.tokens),
        ignore_eos: true,
        stop: ['\n\nQuestion:', 'END'],
      })
      if (!result.isOk) throw new Error(`the server answered ${result.status}`)
      numTokens += result.usage.completion_tokens
      numReads += result.numReads
    }
    const cpuMs = async () => {
      const message = answer()
      child.send('cpu')
      return (await message).cpuMs
    }
    await closedLoop(send, concurrency, 2)
    numTokens = numReads = 0
    const [startMs, startCpuMs] = [performance.now(), await cpuMs()]
    await closedLoop(send, concurrency, Number(flags.seconds))
    const cpuMicros = ((await cpuMs()) - startCpuMs) * 1000
    const seconds = (performance.now() - startMs) / 1000
    return {
      concurrency,
      cpuMicrosPerToken: rounded(cpuMicros / numTokens),
      tokensPerSecond: rounded(numTokens / seconds),
      readsPerToken: rounded(numReads / numTokens, 3),
    }
  } finally {
    agent.destroy()
    child.send('exit')
    await new Promise((resolve) => child.once('exit', resolve))
  }
}

const result = {
  date: new Date().toISOString(),
  node: process.version,
  cpu: cpus()[0]?.model,
  cores: cpus().length,
  loadAverage: loadavg().map((load) => rounded(load, 2)),
  flags,
}
if (wants('http')) {
  result.http = []
  for (const concurrency of flags.concurrency.split(',').map(Number)) {
    const measured = await overHttp(concurrency)
    result.http.push(measured)
    process.stdout.write(
      `${concurrency} streams: ${measured.cpuMicrosPerToken} us of the serving thread a token, ${measured.tokensPerSecond} tokens/s, ${measured.readsPerToken} reads a token\n`,
    )
  }
}
mkdirSync(join(root, 'bench', 'results'), { recursive: true })
writeFileSync(join(root, 'bench', 'results', 'engine.json'), `${JSON.stringify(result, null, 2)}\n`)
process.stdout.write('bench/results/engine.json\n')
