/** Models that keep a state for each sequence: the scripted runner fails a step that is given a state of other tokens than the sequence's. */
import { afterEach, describe, expect, it, vi } from 'vitest'
import { EOS } from '../../test/engine/byte-tokenizer.ts'
import { delayMasks } from '../../test/engine/late-masks.ts'
import { createRandom } from '../../test/engine/random.ts'
import { collect, request } from '../../test/engine/requests.ts'
import { heldBy, ofType, openScriptedEngine as setup, until } from '../../test/engine/scripted-engine.ts'
import type { ScriptedRunnerOptions } from '../../test/engine/scripted-runner.ts'
import { RunnerError } from './runner/runner.ts'
import type { StepPlan } from './runner/runner.ts'

afterEach(() => void vi.restoreAllMocks())

const SIZES = { vocabSize: 97, blockSize: 4, numBlocks: 48, maxNumBatchedTokens: 16, isDeferred: true } as const

/** With the bytes that grammars are made of. */
const BOUND_SIZES = { ...SIZES, vocabSize: 259, eosTokenIds: [EOS] }

const text = (length: number, seed: number) => Array.from({ length }, (_, i) => (i * 7 + seed * 13) % 96)

/** Prompts that share beginnings, whole and in part, some of them several times over. */
function sharingRequests(seed: number, count: number): Parameters<typeof request>[0][] {
  const random = createRandom(seed)
  return Array.from({ length: count }, () => {
    const shared = text(random.int(0, 30), random.int(0, 3))
    return {
      prompts: [{ ids: [...shared, ...text(random.int(1, 9), random.int(4, 90))] }],
      n: random.pick([1, 1, 1, 3]),
      maxTokens: random.int(1, 40),
      promptLogprobs: random.pick([-1, -1, -1, -1, 2]),
      ignoreEos: true,
      logprobs: random.pick([-1, 2]),
      sampling: { temperature: random.pick([0, 0.7]), seed: 7, presencePenalty: random.pick([0, 0, 0.3]) },
    }
  })
}

/** The same, half of them bound by a grammar. */
function boundRequests(seed: number, count: number): Parameters<typeof request>[0][] {
  return sharingRequests(seed, count).map((fields, i) =>
    i % 2 === 0
      ? fields
      : { ...fields, ignoreEos: false, structured: { kind: 'regex', pattern: '[a-f]{3,24}(x|yy)[0-9]*' } },
  )
}

async function alone(
  fields: readonly Parameters<typeof request>[0][],
  sizes: Partial<ScriptedRunnerOptions> = SIZES,
): Promise<number[][][]> {
  const { engine } = setup({ runAhead: 0, prefixCaching: false }, { ...sizes, maxModelLen: 128 })
  const texts: number[][][] = []
  for (const each of fields) texts.push((await collect(engine, request(each))).tokenIds)
  await engine.close()
  return texts
}

describe('states of sequences', () => {
  it.each([
    ['plenty of slots', { numStateSlots: 33 }, {}],
    ['as many slots as sequences', { numStateSlots: 6 }, { maxNumSeqs: 6 }],
    ['two slots', { numStateSlots: 2 }, {}],
    ['one slot', { numStateSlots: 1 }, {}],
    ['blocks of one token', { numStateSlots: 17, blockSize: 1, numBlocks: 190 }, {}],
    ['no prefix cache', { numStateSlots: 8 }, { prefixCaching: false }],
    ['no run-ahead', { numStateSlots: 9 }, { runAhead: 0 as const }],
  ])('are those of their own tokens, with preemption and shared prefixes: %s', async (_, runner, options) => {
    const fields = sharingRequests(3, 40)
    const texts = await alone(fields)
    const { engine, errors, events } = setup(options, { ...SIZES, maxModelLen: 128, ...runner })
    const results = await Promise.all(fields.map((each) => collect(engine, request(each))))
    expect(errors).toEqual([])
    expect(results.map(({ tokenIds }) => tokenIds)).toEqual(texts)
    if (runner.numStateSlots > 4) expect(ofType(events, 'preempted').length).toBeGreaterThan(2)
    expect(heldBy(engine)).toEqual({ numRunning: 0, numWaiting: 0, numHeldBlocks: 0 })
    expect(engine.stats().numHeldStateSlots).toBe(0)
    await engine.close()
  })

  it.each([
    ['plenty of slots', 33, 0.3, 1],
    ['too few slots to plan all ahead', 9, 0.3, 1],
    ['one slot', 1, 0.3, 1],
    ['no run-ahead', 17, 0.3, 0],
  ] as const)('are those of their own tokens where masks come late: %s', async (_, numStateSlots, share, runAhead) => {
    const sizes = { ...SIZES, vocabSize: 259, eosTokenIds: [EOS], maxModelLen: 128 }
    const fields = boundRequests(4, 24)
    const { engine: lone } = setup({ runAhead: 0, prefixCaching: false, maxNumSeqs: 1 }, sizes)
    const texts: number[][][] = []
    for (const each of fields) texts.push((await collect(lone, request(each))).tokenIds)
    await lone.close()
    delayMasks(createRandom(2), share)
    let numAhead = 0
    const onPlan = ({ sequences }: StepPlan) => {
      if (sequences.every(({ tokenSource }) => 'fromPreviousStep' in tokenSource)) numAhead++
    }
    const { engine, errors } = setup({ runAhead }, { ...BOUND_SIZES, maxModelLen: 128, numStateSlots, onPlan })
    const results = await Promise.all(fields.map((each) => collect(engine, request(each))))
    expect(errors).toEqual([])
    expect(results.map(({ tokenIds }) => tokenIds)).toEqual(texts)
    if (runAhead === 1 && numStateSlots === 33) expect(numAhead).toBeGreaterThan(20)
    expect(heldBy(engine)).toEqual({ numRunning: 0, numWaiting: 0, numHeldBlocks: 0 })
    expect(engine.stats().numHeldStateSlots).toBe(0)
    await engine.close()
  })

  it('are free again whatever ends a request', async () => {
    const random = createRandom(5)
    let numLosses = 0
    const onPlan = ({ sequences }: StepPlan) => {
      if (random.next() > 0.1) return
      numLosses++
      throw random.next() < 0.5
        ? new RunnerError('device_lost', 'gone')
        : new RunnerError('engine_error', 'broken', { sequence: random.int(0, sequences.length) })
    }
    const fields = boundRequests(8, 40)
    const texts = await alone(fields, BOUND_SIZES)
    delayMasks(createRandom(3), 0.2)
    const { engine } = setup({}, { ...BOUND_SIZES, numStateSlots: 9, maxModelLen: 128, onPlan })
    const results = await Promise.allSettled(
      fields.map(async (each, i) => {
        const stop = new AbortController()
        const result = collect(engine, request(each), stop.signal)
        if (i % 5 === 0) {
          await until(() => engine.stats().numRunning > 0 || random.next() < 0.1)
          stop.abort()
        }
        return result
      }),
    )
    expect(numLosses).toBeGreaterThan(3)
    for (const [i, result] of results.entries()) {
      if (result.status === 'rejected' || i % 5 === 0) continue
      expect(result.value.tokenIds).toEqual(texts[i])
    }
    expect(heldBy(engine)).toEqual({ numRunning: 0, numWaiting: 0, numHeldBlocks: 0 })
    expect(engine.stats().numHeldStateSlots).toBe(0)
    await engine.close()
  })
})

describe('the prefix cache of a model with states', () => {
  const open = () => setup({}, { ...SIZES, numBlocks: 200, numStateSlots: 17, maxNumBatchedTokens: 64 })
  const cachedTokens = async (engine: ReturnType<typeof open>['engine'], ids: readonly number[], n = 1) => {
    const { events } = await collect(engine, request({ prompts: [{ ids: [...ids] }], n, maxTokens: 9 }))
    return events.flatMap((event) => (event.type === 'finished' ? [event.counters.numCachedTokens] : []))
  }

  it('serves a prompt up to its last whole block', async () => {
    const { engine } = open()
    expect(await cachedTokens(engine, text(30, 1))).toEqual([0])
    expect(await cachedTokens(engine, text(30, 1))).toEqual([28])
    expect(await cachedTokens(engine, [...text(30, 1), 5, 5, 5, 5])).toEqual([28])
    await engine.close()
  })

  it('serves a shared beginning from the third text on: the second shows where they part', async () => {
    const { engine } = open()
    const found: number[] = []
    for (const last of [1, 2, 3]) found.push(...(await cachedTokens(engine, [...text(22, 1), ...text(9, last + 50)])))
    expect(found).toEqual([0, 0, 20])
    await engine.close()
  })

  it('serves an answer with the question when the conversation goes on', async () => {
    const { engine } = open()
    const prompt = text(18, 1)
    const { tokenIds } = await collect(engine, request({ prompts: [{ ids: prompt }], maxTokens: 15, ignoreEos: true }))
    // 33 tokens, of which the last is not computed: eight blocks.
    expect(await cachedTokens(engine, [...prompt, ...(tokenIds[0] ?? []), 1, 2, 3])).toEqual([32])
    await engine.close()
  })

  it('computes the prompt of several choices once', async () => {
    const { engine } = open()
    expect((await cachedTokens(engine, text(90, 1), 4)).toSorted((a, b) => a - b)).toEqual([0, 88, 88, 88])
    await engine.close()
  })
})

it.each([
  [9, 4, 3, 0],
  [9, 8, 2, 3],
  [33, 16, 11, 0],
])(
  'a newcomer finds a slot: %i slots, %i sequences at most, %i grammars run ahead beside %i others',
  async (numStateSlots, maxNumSeqs, numBound, numOthers) => {
    const sizes = { ...BOUND_SIZES, numBlocks: 2000, maxNumBatchedTokens: 32, maxModelLen: 640, numStateSlots }
    const { engine, events, errors } = setup({ runAhead: 1, maxNumSeqs, prefixCaching: false }, sizes)
    const numSteps = () => ofType(events, 'step').length
    const prompt = (seed: number) => [{ ids: text(5, seed) }]
    const structured = { kind: 'regex', pattern: '[a-f]{499}[a-z]*' } as const
    // Compiles the grammar: the others would be done by then.
    await collect(engine, request({ prompts: prompt(50), maxTokens: 2, structured }))
    const others = Array.from({ length: numOthers }, (_, i) =>
      collect(engine, request({ prompts: prompt(20 + i), maxTokens: 500, ignoreEos: true })),
    )
    const bound = Array.from({ length: numBound }, (_, i) =>
      collect(engine, request({ prompts: prompt(i), maxTokens: 500, structured })),
    )
    await until(() => engine.stats().numRunning === numBound + numOthers)
    const joined = numSteps()
    await until(() => numSteps() > joined + 20)
    const before = numSteps()
    await collect(engine, request({ prompts: prompt(40), maxTokens: 2, ignoreEos: true }))
    expect(numSteps() - before).toBeLessThan(12)
    await Promise.all([...others, ...bound])
    expect(errors).toEqual([])
    await engine.close()
  },
)
