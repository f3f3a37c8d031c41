/** Steps planned ahead in batches of which some sequences are bound by grammars: what each gets is what it gets alone. */
import { afterEach, expect, test, vi } from 'vitest'
import { EOS } from '../../test/engine/byte-tokenizer.ts'
import { delayMasks } from '../../test/engine/late-masks.ts'
import { createRandom, type Random } from '../../test/engine/random.ts'
import { collect, request } from '../../test/engine/requests.ts'
import { ofType, openScriptedEngine, until } from '../../test/engine/scripted-engine.ts'
import type { GenerationRequest } from './request.ts'

const isFull = process.env['MINISERVE_TEST_LEVEL'] === 'full'
const RUNNER = { eosTokenIds: [EOS], isDeferred: true, numBlocks: 96 }

afterEach(() => void vi.restoreAllMocks())

const GRAMMARS: readonly GenerationRequest['structured'][] = [
  { kind: 'regex', pattern: '[a-f]{3,20}(x|yy)[0-9]*' },
  { kind: 'choice', choices: ['a long choice that takes some steps', 'another one', 'a long night'] },
  { kind: 'json_schema', schema: { type: 'array', items: { type: 'integer' }, maxItems: 6 } },
]

function randomRequest(random: Random): GenerationRequest {
  return request({
    prompts: [{ text: `prompt ${random.int(0, 9)}${'.'.repeat(random.int(0, 30))}` }],
    n: random.pick([1, 1, 2]),
    maxTokens: random.int(1, 28),
    structured: random.next() < 0.5 ? random.pick(GRAMMARS) : null,
    sampling: {
      temperature: random.pick([0, 1]),
      seed: random.int(0, 1000),
      presencePenalty: random.pick([0, 0, 0.7]),
    },
  })
}

test('a grammar runs ahead with the others: its mask follows the step, which takes the token before from the device', async () => {
  let numAhead = 0
  const runner = {
    ...RUNNER,
    onPlan: ({ sequences }: { sequences: readonly { tokenSource: object }[] }) => {
      if (sequences.length === 2 && sequences.every(({ tokenSource }) => 'fromPreviousStep' in tokenSource)) numAhead++
    },
  }
  const { engine, events } = openScriptedEngine({}, runner)
  const bound = collect(engine, request({ maxTokens: 60, structured: { kind: 'regex', pattern: '[a-z]{60}' } }))
  // Its grammar is compiled.
  await until(() => ofType(events, 'firstToken').length > 0)
  const free = await collect(engine, request({ maxTokens: 30, ignoreEos: true }))
  expect(free.tokenIds[0]).toHaveLength(30)
  expect((await bound).texts[0]).toMatch(/^[a-z]{60}$/)
  expect(numAhead).toBeGreaterThan(0)
  await engine.close()
})

test.each([0, 0.3])(
  'texts of mixed batches are those of each request alone, with %f of the masks late',
  async (share) => {
    for (let seed = 1; seed <= (isFull ? 40 : 1 + Math.ceil(share)); seed++) {
      const random = createRandom(seed)
      const requests = Array.from({ length: 10 }, () => randomRequest(random))
      const alone = openScriptedEngine({ runAhead: 0, maxNumSeqs: 1, prefixCaching: false }, RUNNER)
      const expected = []
      for (const each of requests) expected.push((await collect(alone.engine, each)).texts)
      await alone.engine.close()
      delayMasks(random, share)
      // So few blocks that some are preempted.
      const mixed = openScriptedEngine({}, { ...RUNNER, numBlocks: 40 })
      const found = await Promise.all(requests.map((each) => collect(mixed.engine, each)))
      expect(found.map(({ texts }) => texts)).toEqual(expected)
      expect(mixed.errors).toEqual([])
      await mixed.engine.close()
      vi.restoreAllMocks()
    }
  },
)

test('a step that fails while the next one waits for its masks fails what runs, and the engine goes on', async () => {
  let countdown = 12
  const runner = {
    ...RUNNER,
    onPlan: () => {
      if (--countdown === 0) throw new Error('unplugged')
    },
  }
  const { engine } = openScriptedEngine({}, runner)
  const bound = () => collect(engine, request({ maxTokens: 40, structured: { kind: 'regex', pattern: '[a-z]{40}' } }))
  const ended = await Promise.allSettled([bound(), bound()])
  expect(ended.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
  expect((await bound()).texts[0]).toMatch(/^[a-z]{40}$/)
  await engine.close()
})
