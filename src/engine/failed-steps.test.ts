/** Steps that fail, and drafts at the ends of context and pool: no request may pay for another's fault. */
import { describe, expect, it } from 'vitest'
import { createRandom } from '../../test/engine/random.ts'
import type { Random } from '../../test/engine/random.ts'
import { collect, request } from '../../test/engine/requests.ts'
import { heldBy, ofType, openScriptedEngine as setup } from '../../test/engine/scripted-engine.ts'
import type { ScriptedRunnerOptions } from '../../test/engine/scripted-runner.ts'
import { RunnerError } from './runner/runner.ts'
import type { StepPlan } from './runner/runner.ts'

/** Texts that repeat themselves, so that there is always something to guess. */
const REPETITIVE = { vocabSize: 97, order: 1, isDeferred: true } as const

function randomRequests(random: Random, count: number, maxPromptTokens: number): Parameters<typeof request>[0][] {
  return Array.from({ length: count }, () => ({
    prompts: [{ ids: Array.from({ length: random.int(1, maxPromptTokens) }, (_, i) => (i % random.int(2, 8)) * 11) }],
    n: random.pick([1, 1, 2]),
    // More than the context has room for: to its very end.
    maxTokens: random.pick([5, 40, 1000]),
    ignoreEos: true,
    logprobs: random.pick([-1, 2]),
    sampling: { temperature: random.pick([0, 0, 0.7]), seed: 7, presencePenalty: random.pick([0, 0, 0.3]) },
  }))
}

/** What every request says when nothing goes wrong, each alone, without drafts and run-ahead. */
async function expected(
  fields: readonly Parameters<typeof request>[0][],
  runner: Partial<ScriptedRunnerOptions>,
): Promise<number[][][]> {
  const { engine } = setup({ runAhead: 0, prefixCaching: false }, runner)
  const texts: number[][][] = []
  for (const each of fields) texts.push((await collect(engine, request(each))).tokenIds)
  await engine.close()
  return texts
}

describe('drafts', () => {
  it.each([
    ['the context', { blockSize: 16, maxModelLen: 256, numBlocks: 96 }],
    ['the pool', { blockSize: 4, maxModelLen: 60, numBlocks: 15 }],
    ['a context that ends inside a block', { blockSize: 16, maxModelLen: 65, numBlocks: 12 }],
  ])('never pass the end of %s, and change no text', async (_, size) => {
    const sizes = { ...REPETITIVE, maxNumBatchedTokens: 64, ...size }
    const fields = randomRequests(createRandom(3), 14, 40)
    const texts = await expected(fields, sizes)
    const { engine, errors } = setup({ speculation: true, maxNumSeqs: 4 }, sizes)
    const results = await Promise.all(fields.map((each) => collect(engine, request(each))))
    expect(results.map(({ tokenIds }) => tokenIds)).toEqual(texts)
    expect(errors).toEqual([])
    const { numDraftTokens, numAcceptedTokens } = engine.stats()
    expect(numDraftTokens).toBeGreaterThan(30)
    expect(numAcceptedTokens).toBeGreaterThan(10)
    expect(heldBy(engine)).toEqual({ numRunning: 0, numWaiting: 0, numHeldBlocks: 0 })
    await engine.close()
  })

  it('make no sequence give its blocks back that would have kept them without', async () => {
    const sizes = { ...REPETITIVE, blockSize: 4, maxModelLen: 60, numBlocks: 15, maxNumBatchedTokens: 64 }
    const { engine } = setup({ speculation: true }, sizes)
    for (let i = 0; i < 30; i++) {
      const prompt = { ids: Array.from({ length: 20 }, (_, j) => i + (j % 4)) }
      await collect(engine, request({ prompts: [prompt], maxTokens: 1000 }))
    }
    expect(engine.stats().numDraftTokens).toBeGreaterThan(0)
    expect(engine.stats().numPreemptions).toBe(0)
    await engine.close()
  })
})

describe('a step that fails over one sequence', () => {
  it('fails that request alone; the others say what they would have said', async () => {
    const sizes = { ...REPETITIVE, blockSize: 4, numBlocks: 64, maxNumBatchedTokens: 32 }
    const random = createRandom(11)
    const fields = randomRequests(random, 40, 12).map((each) => ({ ...each, maxTokens: random.int(4, 40) }))
    const texts = await expected(fields, sizes)
    // Some sequence of some step is refused, before anything of that step has run.
    let numRefused = 0
    const onPlan = ({ sequences }: StepPlan) => {
      if (random.next() > 0.05 || sequences.length < 2) return
      numRefused++
      throw new RunnerError('engine_error', 'broken plan', { sequence: random.int(0, sequences.length) })
    }
    const { engine, errors, events } = setup({ speculation: true, maxNumSeqs: 6 }, { ...sizes, onPlan })
    const results = await Promise.allSettled(fields.map((each) => collect(engine, request(each))))
    const failed = results.filter(({ status }) => status === 'rejected')
    expect(numRefused).toBeGreaterThan(4)
    expect(failed).toHaveLength(numRefused)
    expect(errors).toHaveLength(numRefused)
    for (const each of failed) expect(each).toMatchObject({ reason: { code: 'engine_error' } })
    for (const [i, result] of results.entries()) {
      if (result.status === 'fulfilled') expect(result.value.tokenIds).toEqual(texts[i])
    }
    expect(ofType(events, 'finished')).toHaveLength(ofType(events, 'queued').length)
    expect(ofType(events, 'preempted').length).toBeGreaterThan(0)
    expect(heldBy(engine)).toEqual({ numRunning: 0, numWaiting: 0, numHeldBlocks: 0 })
    await engine.close()
  })
})

describe('a lost device', () => {
  it('leaves no request without an end, whatever was preempted in flight', async () => {
    const random = createRandom(5)
    let numLosses = 0
    const onPlan = () => {
      if (random.next() > 0.1) return
      numLosses++
      throw new RunnerError('device_lost', 'gone')
    }
    const sizes = { vocabSize: 97, blockSize: 4, numBlocks: 20, maxNumBatchedTokens: 32, isDeferred: true, onPlan }
    const { engine, events } = setup({ speculation: true }, sizes)
    const requests = Array.from({ length: 60 }, (_, i) =>
      request({ prompts: [{ ids: Array.from({ length: 10 }, (__, j) => (i * 7 + j) % 96) }], maxTokens: 30 }),
    )
    const results = await Promise.allSettled(requests.map((each) => collect(engine, each)))
    expect(numLosses).toBeGreaterThan(3)
    expect(engine.stats().numPreemptions).toBeGreaterThan(3)
    for (const result of results) {
      if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'device_lost' })
      else expect(result.value.tokenIds[0]).toHaveLength(30)
    }
    expect(ofType(events, 'finished')).toHaveLength(requests.length)
    expect(heldBy(engine)).toEqual({ numRunning: 0, numWaiting: 0, numHeldBlocks: 0 })
    await engine.close()
  })
})
