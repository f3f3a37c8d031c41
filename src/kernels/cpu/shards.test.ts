/** Models spread over several memories give the same bits as in a single memory. */
import { fileURLToPath } from 'node:url'
import { expect, test, vi } from 'vitest'
import { createByteTokenizer } from '../../../test/engine/byte-tokenizer.ts'
import { collect, request } from '../../../test/engine/requests.ts'
import { createEngine } from '../../engine/engine.ts'
import { createLocalRunner } from '../../engine/runner/local.ts'
import { loadModel, type LoadedModel } from '../../engine/runner/model.ts'
import type { ModelRequest } from '../../engine/runner/runner.ts'
import { forcedDecode, GOLDEN_MODELS, goldenRequest, readGolden } from '../../../test/golden/golden.ts'
import { GREEDY } from '../sampling.ts'
import { Pool } from './pool.ts'

const CHUNK = 17
const BLOCKS = Array.from({ length: 32 }, (_, i) => 40 - i)
const isFull = process.env['MINISERVE_TEST_LEVEL'] === 'full'
/** Models with: attention only; residual streams and per-layer embeddings; experts; states, experts and attention. */
const MODELS = isFull ? GOLDEN_MODELS : ['llama', 'gemma3n', 'gpt-oss', 'qwen3_5-moe']

function load(name: string, overrides: Partial<ModelRequest>): Promise<LoadedModel> {
  return loadModel(goldenRequest(name, { device: 'cpu', threads: 2, maxNumSeqs: CHUNK, ...overrides }))
}

const tokensOf = (name: string): number[] => [...readGolden(name).prompt, ...readGolden(name).tokens]

/** Decodes a golden model's text, and returns how many memories the model was in. */
async function decode(name: string, overrides: Partial<ModelRequest> = {}) {
  const addMemory = vi.spyOn(Pool.prototype, 'addMemory')
  const model = await load(name, overrides)
  try {
    const adapter = overrides.adapters === undefined ? undefined : 0
    const output = await forcedDecode(model, tokensOf(name), CHUNK, BLOCKS, adapter)
    return { output, memory: model.info.memory, numMemories: 1 + addMemory.mock.calls.length }
  } finally {
    await model.backend.close()
    addMemory.mockRestore()
  }
}

/** @param share the share of the model that fits in one memory */
async function expectSameInParts(name: string, share: number, overrides: Partial<ModelRequest> = {}): Promise<void> {
  const whole = await decode(name, overrides)
  const { weightBytes, kvCacheBytes } = whole.memory
  const parts = await decode(name, { ...overrides, cpuMemoryBytes: Math.ceil((weightBytes + kvCacheBytes) * share) })
  expect(whole.numMemories).toBe(1)
  expect(parts.numMemories).toBeGreaterThan(1)
  expect(parts.output).toEqual(whole.output)
}

test.each(MODELS)('%s: weights, keys and values in two memories, and in more', async (name) => {
  await expectSameInParts(name, 0.6)
  await expectSameInParts(name, 0.16)
})

test('an adapter adds what it adds in one memory', async () => {
  const path = fileURLToPath(new URL('../../../test/golden/adapters/llama-all', import.meta.url))
  await expectSameInParts('llama', 0.2, { adapters: [{ name: 'own', path }] })
})

test('blocks that were read from several memories are written to others, one, and back', async () => {
  const ids = tokensOf('llama')
  const [spread, alone, other] = [
    await load('llama', { cpuMemoryBytes: 60_000 }),
    await load('llama', {}),
    await load('llama', { cpuMemoryBytes: 90_000 }),
  ]
  const { logits } = await forcedDecode(alone, ids, CHUNK, BLOCKS)
  await forcedDecode(spread, ids, CHUNK, BLOCKS)
  const used = BLOCKS.slice(0, Math.ceil(ids.length / 16))
  const bytes = await spread.backend.readBlocks(used)
  expect(bytes).toEqual(await alone.backend.readBlocks(used))
  // Only the last token is computed: the KV that it attends to was written above.
  await other.backend.writeBlocks(used, bytes)
  const last = ids.length - 1
  const { input, samples } = other.layout.plan({
    stepId: 1,
    blockCopies: [],
    sequences: [
      {
        tokenSource: { ids: Int32Array.of(ids[last]!) },
        startPosition: last,
        blockTable: Int32Array.from(BLOCKS),
        sample: [GREEDY],
        score: null,
      },
    ],
  })
  other.backend.beginStep(input)
  other.decoder.layers(input)
  other.decoder.outputs(samples, [])
  expect((await other.backend.endStep({ logits: true })).logits).toEqual(logits[last])
  for (const { backend } of [spread, alone, other]) await backend.close()
})

/** The texts of concurrent requests to an engine with a KV pool so small that some are preempted. */
async function serve(name: string, overrides: Partial<ModelRequest>) {
  const runner = createLocalRunner()
  const model = goldenRequest(name, { device: 'cpu', threads: 2, numKvBlocks: 14, maxModelLen: 128, ...overrides })
  const modelInfo = await runner.load(model)
  const options = {
    modelName: name,
    maxNumSeqs: 8,
    runAhead: 1,
    maxQueuedRequests: 64,
    maxQueuedTokens: 65_536,
  } as const
  const engine = createEngine({
    runner,
    modelInfo,
    tokenizer: createByteTokenizer(),
    chatTemplate: null,
    options: { ...options, prefixCaching: true, speculation: true },
  })
  const results = Array.from({ length: 7 }, (_, i) => {
    // The prompts repeat themselves, so that prompt lookup finds drafts; half of them have the same beginning.
    const ids = Array.from({ length: 40 + i }, (_, at) => ((at % 8) * 31 + (i % 2)) % 90)
    return collect(engine, request({ prompts: [{ ids }], maxTokens: 24, ignoreEos: true, sampling: { seed: i } }))
  })
  const texts = (await Promise.all(results)).map(({ tokenIds }) => tokenIds)
  const numPreemptions = (await Promise.all(results)).flatMap(({ events }) =>
    events.flatMap((event) => (event.type === 'finished' ? event.counters.numPreemptions : [])),
  )
  await engine.close()
  return { texts, numPreemptions: numPreemptions.reduce((sum, count) => sum + count, 0) }
}

test.each(['llama', 'lfm2'])('%s: requests that share prefixes, draft and are preempted say the same', async (name) => {
  const expected = await serve(name, {})
  const found = await serve(name, { cpuMemoryBytes: 60_000 })
  expect(found.texts).toEqual(expected.texts)
  expect(found.numPreemptions).toBeGreaterThan(0)
})
