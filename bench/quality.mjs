#!/usr/bin/env node
// `npm run bench -- quality [--model PATH] [--devices reference,cpu,webgpu] [--quantization none] [--kv auto] [--tokens 256] [--generate 24]`
// What a backend's arithmetic costs in quality, on real weights: perplexity of a text (this project's own documentation), the largest and the mean
// difference of log-probabilities from the first device named, and whether greedy text of five prompts is the same. Weights are the same on all:
// what differs is how activations and sums, and with several of `--kv` the KV cache, are rounded.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { createLocalRunner } from '#dist/engine/runner/local.js'
import { loadTokenizer } from '#dist/engine/tokenizer/tokenizer.js'
import { GREEDY } from '#dist/kernels/sampling.js'
import { root, run } from './lib/run.mjs'
import { mean, round } from './lib/stats.mjs'

const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: join(root, 'models', 'mini-1m') },
    name: { type: 'string', default: 'mini-1m' },
    devices: { type: 'string', default: 'reference,cpu,webgpu' },
    quantization: { type: 'string', default: 'none' },
    tokens: { type: 'string', default: '256' },
    generate: { type: 'string', default: '24' },
    kv: { type: 'string', default: 'auto' },
  },
})
const PROMPTS = [
  'The capital of France is',
  'def fibonacci(n):',
  'Water boils at a temperature of',
  'In 1969 the first people',
  'A recipe for bread needs flour,',
]
const BLOCK_SIZE = 16
const numTokens = Number(flags.tokens)
const numGenerated = Number(flags.generate)
const tokenizer = await loadTokenizer(flags.model)
const text = readFileSync(join(root, 'docs', 'architecture.md'), 'utf8')
const ids = tokenizer.encode(text, { addSpecialTokens: true }).slice(0, numTokens + 1)

async function evaluate(device, kvCacheDtype) {
  const runner = createLocalRunner()
  const length = Math.max(numTokens + 1, 64 + numGenerated)
  const blocks = Math.ceil(length / BLOCK_SIZE)
  try {
    const info = await runner.load({
      path: flags.model,
      device,
      kvCacheDtype,
      quantization: /** @type {'none' | 'q8' | 'q4'} */ (flags.quantization),
      maxModelLen: blocks * BLOCK_SIZE,
      maxNumSeqs: 1,
      maxNumBatchedTokens: 64,
      blockSize: BLOCK_SIZE,
      numKvBlocks: blocks,
      threads: null,
      traceKernels: false,
      cacheDir: null,
    })
    let stepId = 0
    const blockTable = Int32Array.from({ length: blocks }, (_, i) => i)
    const step = (tokens, startPosition, sample, score) =>
      runner.execute({
        stepId: stepId++,
        blockCopies: [],
        sequences: [{ tokenSource: { ids: Int32Array.from(tokens) }, startPosition, blockTable, sample, score }],
      })
    const logprobs = []
    for (let at = 0; at + 1 < ids.length; at += 64) {
      const chunk = ids.slice(at, Math.min(at + 64, ids.length - 1))
      const targets = ids.slice(at + 1, at + 1 + chunk.length)
      const { sequences } = await step(chunk, at, [], { targets: Int32Array.from(targets), topN: 0 })
      logprobs.push(...sequences[0].scores.map(({ logprob }) => logprob))
    }
    const texts = []
    for (const prompt of PROMPTS) {
      const tokens = tokenizer.encode(prompt, { addSpecialTokens: true })
      let next = tokens
      let position = 0
      const generated = []
      while (generated.length < numGenerated) {
        const { sequences } = await step(next, position, [GREEDY], null)
        position += next.length
        next = [sequences[0].tokens[0]]
        generated.push(next[0])
      }
      texts.push(generated)
    }
    return { device: info.device, logprobs, texts }
  } finally {
    await runner.close()
  }
}

await run('quality', async (save) => {
  const results = []
  for (const device of flags.devices.split(','))
    for (const kv of flags.kv.split(','))
      results.push(await evaluate(device, /** @type {'auto' | 'f16' | 'q8'} */ (kv)))
  const [first] = results
  const perplexity = (logprobs) => Math.exp(-mean(logprobs))
  const rows = results.map(({ device, logprobs, texts }) => {
    const differences = logprobs.map((value, i) => Math.abs(value - first.logprobs[i]))
    const own = perplexity(logprobs)
    return {
      device: device.kind,
      adapter: device.adapter,
      kv: device.kvFormat,
      perplexity: round(own, 4),
      changePercent: round(100 * (own / perplexity(first.logprobs) - 1), 3),
      meanDifference: round(mean(differences), 5),
      largestDifference: round(Math.max(...differences), 4),
      sameGreedyTexts: texts.filter((tokens, i) => tokens.every((token, k) => token === first.texts[i][k])).length,
      sameGreedyTokens: texts.reduce((sum, tokens, i) => {
        const at = tokens.findIndex((token, k) => token !== first.texts[i][k])
        return sum + (at < 0 ? tokens.length : at)
      }, 0),
    }
  })
  const { name, quantization } = flags
  const tokens = first.logprobs.length
  console.log(`${name}, quantization ${quantization}, ${tokens} tokens; five prompts of ${numGenerated} greedy tokens`)
  console.table(
    rows,
    Object.keys(rows[0]).filter((key) => key !== 'adapter'),
  )
  save(
    { model: name, quantization, tokens, generated: numGenerated, prompts: PROMPTS, rows },
    `quality-${name}-${quantization}${flags.kv === 'auto' ? '' : '-kv'}`,
  )
})
