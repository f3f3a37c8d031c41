/** Models with layers that keep a state: what a request gets depends on the request alone, bit for bit, however its steps fall. */
import { describe, expect, it } from 'vitest'
import { createByteTokenizer } from '../../test/engine/byte-tokenizer.ts'
import { collect, request } from '../../test/engine/requests.ts'
import { goldenRequest } from '../../test/golden/golden.ts'
import { createEngine } from './engine.ts'
import type { Engine } from './request.ts'
import { createLocalRunner } from './runner/local.ts'
import type { ModelRequest } from './runner/runner.ts'

async function open(
  name: string,
  model: Partial<ModelRequest>,
  options: { readonly prefixCaching: boolean; readonly runAhead: 0 | 1 },
): Promise<Engine> {
  const runner = createLocalRunner()
  const maxNumSeqs = model.maxNumSeqs ?? 8
  const modelInfo = await runner.load(goldenRequest(name, { threads: 2, ...model, maxNumSeqs }))
  const bounds = { maxQueuedRequests: 64, maxQueuedTokens: 65536 }
  return createEngine({
    runner,
    modelInfo,
    tokenizer: createByteTokenizer(),
    chatTemplate: null,
    // Asked for, and not done: no state can be taken back behind a wrong draft.
    options: { modelName: name, speculation: true, maxNumSeqs, ...bounds, ...options },
  })
}

/** Prompts with a common beginning, of which the first repeats itself. */
const prompts = Array.from({ length: 6 }, (_, i) =>
  Array.from({ length: 41 + 5 * i }, (__, j) => (j < 35 ? ((j % 12) * 31 + 7) % 96 : (i * 37 + j * 11) % 96)),
)

/** Tokens with the log-probabilities of each and its alternatives. */
async function measure(engine: Engine, ids: readonly number[]) {
  const { events } = await collect(
    engine,
    request({
      prompts: [{ ids }],
      maxTokens: 24,
      ignoreEos: true,
      logprobs: 4,
      sampling: { temperature: 0.8, topP: 0.9, seed: 3 },
    }),
  )
  const tokens = events.flatMap((event) => (event.type === 'token' ? (event.logprobs ?? []) : []))
  const last = events.at(-1)
  return {
    tokens: tokens.map(({ tokenId, detail }) => ({ tokenId, ...detail })),
    numCached: last?.type === 'finished' ? last.counters.numCachedTokens : null,
  }
}

describe.each([
  ['reference', 'qwen3_5'],
  ['cpu', 'qwen3_5'],
  ['cpu', 'lfm2'],
  ['cpu', 'granite4-hybrid'],
] as const)('bit-equal results on %s, %s', (device, name) => {
  it('alone, in chunks, after prefix hits, in a crowd and after preemption', async () => {
    const plain = await open(name, { device, maxNumSeqs: 1 }, { prefixCaching: false, runAhead: 0 })
    const expected: Awaited<ReturnType<typeof measure>>['tokens'][] = []
    for (const ids of prompts) expected.push((await measure(plain, ids)).tokens)
    await plain.close()

    for (const maxNumBatchedTokens of [9, 23]) {
      const model = { device, maxNumBatchedTokens, numKvBlocks: 16 }
      const engine = await open(name, model, { prefixCaching: true, runAhead: 1 })
      const first = await measure(engine, prompts[0]!)
      const again = await measure(engine, prompts[0]!)
      expect([first.numCached, again.numCached]).toEqual([0, 32])
      for (const { tokens } of [first, again]) expect(tokens).toEqual(expected[0])
      const crowd = await Promise.all([...prompts, ...prompts].map((ids) => measure(engine, ids)))
      for (const [i, { tokens }] of crowd.entries()) expect(tokens).toEqual(expected[i % prompts.length])
      const { numPreemptions, numDraftTokens, numFreeBlocks, numHeldStateSlots } = engine.stats()
      expect(numPreemptions).toBeGreaterThan(0)
      expect({ numDraftTokens, numFreeBlocks, numHeldStateSlots }).toEqual({
        numDraftTokens: 0,
        numFreeBlocks: 16,
        numHeldStateSlots: 0,
      })
      await engine.close()
    }
  })
})
