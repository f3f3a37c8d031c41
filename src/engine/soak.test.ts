/** Ten thousand requests of every kind, left at random moments: nothing may be held afterwards. */
import { getEventListeners } from 'node:events'
import { expect, it } from 'vitest'
import { createByteTokenizer, EOS } from '../../test/engine/byte-tokenizer.ts'
import { createRandom } from '../../test/engine/random.ts'
import type { Random } from '../../test/engine/random.ts'
import { request } from '../../test/engine/requests.ts'
import { ScriptedRunner } from '../../test/engine/scripted-runner.ts'
import { createEngine } from './engine.ts'
import type { Engine, GenerationRequest } from './request.ts'
import { EngineError } from './request.ts'
import { openKvTiers } from './kv/kv-tiers.ts'

const isSoak = process.env.MINISERVE_TEST_LEVEL === 'soak'
const numRequests = isSoak ? 10_000 : 150
const NUM_BLOCKS = 96
const tools = [{ type: 'function', function: { name: 'f' } }]
const prefixes = ['the same beginning for many requests, ', 'another one that is often used as well, ', '']

function randomRequest(random: Random): GenerationRequest {
  const letters = Array.from({ length: random.int(1, 40) }, () => String.fromCodePoint(random.int(97, 123))).join('')
  return request({
    prompts: [{ text: random.pick(prefixes) + letters }],
    n: random.pick([1, 1, 1, 2, 3]),
    maxTokens: random.int(0, 40),
    stop: random.pick([[], [], ['ab', 'zzz']]),
    logprobs: random.pick([-1, -1, 2]),
    promptLogprobs: random.pick([-1, -1, -1, 1]),
    structured: random.next() < 0.05 ? { kind: 'choice', choices: ['yes', 'no'] } : null,
    ...(random.next() < 0.05 ? { toolUse: { tools, choice: random.pick(['auto', 'required']), parallel: false } } : {}),
    cacheSalt: random.pick(['a', 'b']),
    priority: random.pick([0, 0, 1]),
    deadlineMs: random.next() < 0.02 ? performance.now() + random.int(1, 30) : null,
    sampling: {
      temperature: random.pick([0, 0.8, 1.5]),
      presencePenalty: random.pick([0, 0, 0.5]),
      seed: random.int(0, 1000),
    },
  })
}

type Ending = 'finished' | 'left' | 'aborted' | 'failed'

/** One client: reads to the end, or leaves after some events, by the iterator or by the signal. */
async function serve(engine: Engine, random: Random): Promise<Ending> {
  const control = new AbortController()
  const stream = engine.submit(randomRequest(random), control.signal)
  const patience = random.next() < 0.4 ? random.int(0, 20) : Infinity
  const leaves = random.next() < 0.5
  let numEvents = 0
  let ending: Ending = 'finished'
  try {
    for await (const event of stream) {
      if (event.type === 'finished' && event.reason === 'abort') ending = 'aborted'
      if (++numEvents <= patience) continue
      if (leaves) {
        ending = 'left'
        break
      }
      control.abort()
    }
  } catch (error) {
    if (!(error instanceof EngineError) || error.code !== 'deadline') throw error
    ending = 'failed'
  }
  expect(getEventListeners(control.signal, 'abort')).toHaveLength(0)
  return ending
}

it(
  `${numRequests} requests with random aborts leave nothing behind`,
  { timeout: isSoak ? 540_000 : 60_000 },
  async () => {
    const runner = new ScriptedRunner({
      numBlocks: NUM_BLOCKS,
      blockSize: 4,
      vocabSize: 259,
      maxNumBatchedTokens: 64,
      eosTokenIds: [EOS],
      order: 3,
      isDeferred: true,
    })
    const { fingerprint, blockSize, blockBytes } = runner.modelInfo
    const kvTiers = await openKvTiers({
      hostMemoryBytes: 64 * blockBytes,
      directory: null,
      maxDiskBytes: 0,
      fingerprint,
      blockSize,
      blockBytes,
      onLog: () => {},
    })
    const errors: unknown[] = []
    const engine = createEngine({
      runner,
      modelInfo: runner.modelInfo,
      tokenizer: createByteTokenizer(),
      chatTemplate: null,
      kvTiers,
      options: {
        modelName: 'scripted',
        maxNumSeqs: 16,
        prefixCaching: true,
        runAhead: 1,
        speculation: true,
        maxQueuedRequests: 256,
        maxQueuedTokens: 65536,
        toolCallParser: 'hermes',
        onError: (where, error) => errors.push({ where, error }),
      },
    })
    const counts = { queued: 0, finished: 0, kvSubmitted: 0, kvDone: 0 }
    engine.subscribe({
      name: 'count',
      onEvent: ({ type }) => {
        if (type === 'queued' || type === 'finished' || type === 'kvSubmitted' || type === 'kvDone') counts[type]++
      },
    })
    const timersBefore = process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
    const endings: Record<Ending, number> = { finished: 0, left: 0, aborted: 0, failed: 0 }
    let numStarted = 0
    let heapAtHalf = 0
    const client = async (index: number) => {
      const random = createRandom(index + 1)
      while (numStarted < numRequests) {
        if (++numStarted === numRequests >> 1) heapAtHalf = process.memoryUsage().heapUsed
        endings[await serve(engine, random)]++
      }
    }
    await Promise.all(Array.from({ length: 24 }, (_, index) => client(index)))
    await engine.drain(10_000)
    expect(engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, numFreeBlocks: NUM_BLOCKS })
    await engine.close()
    expect(errors).toEqual([])
    expect(counts.queued).toBe(counts.finished)
    expect(counts.kvSubmitted).toBe(counts.kvDone)
    const numTimers = process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
    expect(numTimers).toBeLessThanOrEqual(timersBefore)
    for (const ending of ['finished', 'left', 'aborted'] as const)
      expect(endings[ending], ending).toBeGreaterThan(numRequests / 50)
    expect(engine.stats().numPreemptions).toBeGreaterThan(0)
    if (isSoak) expect(process.memoryUsage().heapUsed - heapAtHalf).toBeLessThan(64 << 20)
  },
)
