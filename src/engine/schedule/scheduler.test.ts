import { describe, expect, it } from 'vitest'
import { createRandom } from '../../../test/engine/random.ts'
import { GREEDY } from '../../../test/engine/requests.ts'
import { ScriptedRunner } from '../../../test/engine/scripted-runner.ts'
import { acceptDrafts } from '../requests/choice.ts'
import type { StepResult } from '../runner/runner.ts'
import { SamplingState } from '../requests/sampling.ts'
import { Scheduler } from './scheduler.ts'
import type { SchedulerOptions } from './scheduler.ts'
import type { ScheduledStep } from './step-draft.ts'
import { Sequence } from './sequence.ts'

const VOCAB = 32

/** FNV over the chain: collisions are possible, and must not matter, since tokens are compared. */
function weakHash(parent: string, tokens: Int32Array): string {
  let hash = 0x811c9dc5
  for (const value of [...parent].map((character) => character.charCodeAt(0)).concat([...tokens])) {
    hash = Math.imul(hash ^ value, 0x01000193) >>> 0
  }
  return (hash % 4096).toString(36)
}

let numArrived = 0

function sequence(
  promptTokens: readonly number[],
  fields: Partial<ConstructorParameters<typeof Sequence>[0]> = {},
  penalty = 0,
): Sequence {
  const params = { ...GREEDY, presencePenalty: penalty }
  const sampling = { params, seed: 1, choice: 0, minTokens: 0, endTokenIds: [], logprobs: -1, vocabSize: VOCAB }
  return new Sequence({
    requestId: `r${numArrived}`,
    choice: 0,
    arrival: numArrived++,
    priority: 0,
    promptTokens,
    maxOutputTokens: 4,
    sampling: new SamplingState(sampling, promptTokens),
    promptLogprobs: -1,
    promptHashes: [],
    cacheRoot: 'root',
    hasGrammar: false,
    lookup: null,
    arrivedMs: 0,
    ...fields,
  })
}

function scheduler(options: Partial<SchedulerOptions> = {}): Scheduler {
  return new Scheduler({
    blockSize: 4,
    numBlocks: 32,
    maxNumSeqs: 8,
    maxNumBatchedTokens: 16,
    maxSampleRows: 64,
    hash: weakHash,
    ...options,
  })
}

const isComplete = (each: Sequence) => each.numOutputTokens >= each.maxOutputTokens

const range = (length: number, from = 0) => Array.from({ length }, (_, i) => (from + i) % VOCAB)

/** Takes the next step; each sampled row draws token 1. */
function advance(target: Scheduler): ScheduledStep {
  const { step } = target.schedule()
  if (step === null) throw new Error('nothing was scheduled')
  for (const entry of step.sequences) {
    target.settle(entry, entry.numSampleRows)
    if (entry.numSampleRows === 0) continue
    for (let i = 0; i < entry.numSampleRows; i++) entry.sequence.tokens.push(1)
    entry.sequence.counters.firstTokenMs ??= 1
    target.publish(entry.sequence)
    if (!entry.sequence.wantsMoreTokens) target.finish(entry.sequence)
  }
  return step
}

const rowsOf = (step: ScheduledStep) => step.sequences.map((entry) => [entry.sequence.requestId, entry.numTokens])

describe('a step', () => {
  it('decodes first, then continues prefills, then admits, within one budget', () => {
    const target = scheduler()
    const [a, b, c] = [sequence(range(3)), sequence(range(20, 8)), sequence(range(9, 16))]
    target.add(a)
    expect(rowsOf(advance(target))).toEqual([[a.requestId, 3]])
    target.add(b)
    target.add(c)
    expect(rowsOf(advance(target))).toEqual([
      [a.requestId, 1],
      [b.requestId, 15],
    ])
    expect(rowsOf(advance(target))).toEqual([
      [a.requestId, 1],
      [b.requestId, 5],
      [c.requestId, 9],
    ])
  })

  it('takes a bounded piece of prompts while someone decodes, and all of the budget while nobody does', () => {
    const backlogs: unknown[] = []
    const maxPrefillTokens = (_: number, backlog: unknown): number => {
      backlogs.push(backlog)
      return 6
    }
    const target = scheduler({ maxNumBatchedTokens: 16, maxNumSeqs: 3, maxPrefillTokens })
    const [a, b, c] = [sequence(range(3), { maxOutputTokens: 3 }), sequence(range(20, 8)), sequence(range(9, 16))]
    for (const each of [a, b]) target.add(each)
    expect(rowsOf(advance(target))).toEqual([
      [a.requestId, 3],
      [b.requestId, 13],
    ])
    // Three have a place: the prompts of others are of no concern to the steps that follow.
    for (const each of [c, sequence(range(50, 3))]) target.add(each)
    expect(rowsOf(advance(target))).toEqual([
      [a.requestId, 1],
      [b.requestId, 6],
    ])
    expect(rowsOf(advance(target))).toEqual([
      [a.requestId, 1],
      [b.requestId, 1],
      [c.requestId, 5],
    ])
    expect(backlogs).toEqual([
      { numPrompts: 2, numTokens: 16 },
      { numPrompts: 2, numTokens: 10 },
    ])
  })

  it('has sequences whose masks are still to come, and computes again what one that came too late was for', () => {
    const target = scheduler()
    const [a, b] = [sequence(range(3), { hasGrammar: true }), sequence(range(3, 9))]
    for (const each of [a, b]) target.add(each)
    advance(target)
    a.isMaskPending = true
    const step = target.schedule().step!
    expect(rowsOf(step)).toEqual([
      [a.requestId, 1],
      [b.requestId, 1],
    ])
    expect([...step.unmasked]).toEqual([[0, { sequence: a, numOutputTokens: 1 }]])
    a.isMaskLate = true
    target.settle(step.sequences[0]!, 0)
    target.settle(step.sequences[1]!, 1)
    b.tokens.push(1)
    expect(rowsOf(advance(target))).toEqual([[b.requestId, 1]])
    a.isMaskPending = false
    a.isMaskLate = false
    const again = advance(target)
    expect(rowsOf(again)[0]).toEqual([a.requestId, 1])
    expect(again.sequences[0]!.startPosition).toBe(step.sequences[0]!.startPosition)
    expect(again.unmasked.size).toBe(0)
  })

  it('is planned ahead for a grammar too; what continues a token that does not count does not count either', () => {
    const target = scheduler()
    const [a, b] = [sequence(range(3), { hasGrammar: true }), sequence(range(3, 9))]
    for (const each of [a, b]) target.add(each)
    advance(target)
    a.isMaskPending = true
    const first = target.schedule().step!
    const second = target.schedule().step!
    expect([...second.unmasked]).toEqual([[0, { sequence: a, numOutputTokens: 2 }]])
    expect(second.plan.sequences[0]!.tokenSource).toEqual({ fromPreviousStep: 0 })
    // The mask of the first comes too late, but before the second is settled.
    target.settle(first.sequences[0]!, 0)
    target.settle(first.sequences[1]!, 1)
    b.tokens.push(1)
    a.isMaskPending = false
    const third = target.schedule().step!
    expect(rowsOf(third)).toEqual([[b.requestId, 1]])
    target.settle(second.sequences[0]!, 0)
    target.settle(second.sequences[1]!, 1)
    b.tokens.push(1)
    const again = target.schedule().step!
    expect(again.sequences[0]).toMatchObject({ sequence: a, startPosition: first.sequences[0]!.startPosition })
    expect(again.unmasked.size).toBe(0)
  })

  it('keeps the state before a row whose mask is still to come, in a slot of its own, and goes back to it where the row does not count', () => {
    const target = scheduler({ numStateSlots: 4 })
    const [a, b] = [sequence(range(3), { hasGrammar: true }), sequence(range(3, 9))]
    for (const each of [a, b]) target.add(each)
    const stateOf = (step: ScheduledStep, of: Sequence) =>
      step.plan.sequences[step.sequences.findIndex((entry) => entry.sequence === of)]?.state
    const first = target.schedule().step!
    const before = stateOf(first, a)!.write
    const ahead = target.schedule().step!
    const { read, write } = stateOf(ahead, a)!
    expect(read).toBe(before)
    expect(write).not.toBe(before)
    // Nobody runs behind a state that may be taken back and is not.
    expect(stateOf(ahead, b)?.read).toBe(stateOf(ahead, b)?.write)
    for (const entry of first.sequences) {
      target.settle(entry, 1)
      entry.sequence.tokens.push(1)
    }
    a.isMaskPending = true
    a.isMaskLate = true
    for (const entry of ahead.sequences) target.settle(entry, entry.sequence === a ? 0 : 1)
    b.tokens.push(1)
    expect(rowsOf(advance(target))).toEqual([[b.requestId, 1]])
    a.isMaskPending = false
    a.isMaskLate = false
    const again = target.schedule().step!
    expect(stateOf(again, a)).toEqual({ read: before, write: before })
    for (const each of [a, b]) target.finish(each)
    target.states?.beginPlan()
    expect(target.states?.numHeld).toBe(0)
  })

  it('waits for a mask where there is no slot for the state before', () => {
    const target = scheduler({ numStateSlots: 2 })
    const [a, b] = [sequence(range(3), { hasGrammar: true }), sequence(range(3, 9))]
    for (const each of [a, b]) target.add(each)
    expect(target.schedule().step).not.toBeNull()
    expect(target.schedule().step).toBeNull()
    expect(target.waitsForMasks).toBe(true)
  })

  it('is planned ahead with the pending token named by its sample row, also where penalties depend on it', () => {
    const target = scheduler()
    const [a, b] = [sequence(range(3)), sequence(range(3, 9))]
    target.add(a)
    target.add(b)
    target.schedule()
    expect(target.schedule().step?.plan.sequences.map((plan) => plan.tokenSource)).toEqual([
      { fromPreviousStep: 0 },
      { fromPreviousStep: 1 },
    ])
    const penalised = scheduler()
    penalised.add(sequence(range(3), {}, 0.5))
    expect(penalised.schedule().step?.plan.sequences[0]?.sample[0]?.pending).toBeNull()
    expect(penalised.schedule().step?.plan.sequences[0]?.sample[0]?.pending).toMatchObject({ row: 0, delta: -0.5 })
  })

  it('plans no token past the last one wanted', () => {
    const target = scheduler()
    target.add(sequence(range(3), { maxOutputTokens: 2 }))
    expect([target.schedule(), target.schedule(), target.schedule()].map(({ step }) => step === null)).toEqual([
      false,
      false,
      true,
    ])
  })

  it('admits by priority, then arrival, and keeps the order when the first does not fit', () => {
    const target = scheduler({ numBlocks: 8, maxNumBatchedTokens: 64 })
    const [low, big, small] = [sequence(range(8), { priority: 1 }), sequence(range(30)), sequence(range(4, 20))]
    for (const each of [low, big, small]) target.add(each)
    expect(rowsOf(advance(target))).toEqual([[big.requestId, 30]])
    expect(target.waiting).toEqual([small, low])
  })

  it('lets tenants take turns, whatever priority and number of sequences one of them asks for', () => {
    const target = scheduler({ maxNumSeqs: 4, numBlocks: 64, maxNumBatchedTokens: 64 })
    const hog = Array.from({ length: 12 }, (_, i) =>
      sequence(range(6, i), { tenant: 'a', priority: -1000, maxOutputTokens: 9 }),
    )
    for (const each of hog) target.add(each)
    advance(target)
    const [b, c] = [sequence(range(5), { tenant: 'b' }), sequence(range(5), { tenant: 'b' })]
    for (const each of [b, c]) target.add(each)
    expect(target.running).toHaveLength(4)
    // The newest of the tenant that has most gives its place to the first of the other, and no more than that.
    const { preempted } = target.schedule()
    expect(preempted.map((each) => each.sequence)).toEqual([hog[3]])
    const steps = 3
    for (let i = 0; i < steps; i++) target.schedule()
    expect(target.running).toContain(b)
    expect(target.running.filter(({ tenant }) => tenant === 'a')).toHaveLength(3)
    expect(target.waiting).toContain(c)
  })

  it('takes no place of a tenant that has one only', () => {
    const target = scheduler({ maxNumSeqs: 2, maxNumBatchedTokens: 64 })
    for (const tenant of ['a', 'b', 'c']) target.add(sequence(range(3), { tenant, maxOutputTokens: 9 }))
    advance(target)
    expect(target.schedule().preempted).toEqual([])
    expect(target.running.map(({ tenant }) => tenant)).toEqual(['a', 'b'])
  })

  it('preempts the newest when blocks run out and resumes it before newcomers', () => {
    const target = scheduler({ numBlocks: 6, maxNumBatchedTokens: 64 })
    const [a, b] = [sequence(range(7), { maxOutputTokens: 8 }), sequence(range(7, 9), { maxOutputTokens: 8 })]
    target.add(a)
    target.add(b)
    let schedule = target.schedule()
    while (schedule.preempted.length === 0) {
      for (const entry of schedule.step?.sequences ?? []) {
        target.settle(entry, 1)
        entry.sequence.tokens.push(1)
        entry.sequence.counters.firstTokenMs = 1
      }
      schedule = target.schedule()
    }
    expect(schedule.preempted.map((entry) => entry.sequence)).toEqual([b])
    const newcomer = sequence(range(2))
    target.add(newcomer)
    expect(target.waiting).toEqual([b, newcomer])
    expect(b.blockTable.length).toBe(0)
  })
})

describe('prefix reuse', () => {
  it('shares blocks that are being computed, also within one step', () => {
    const target = scheduler({ maxNumBatchedTokens: 64 })
    const [a, b] = [sequence(range(18)), sequence([...range(16), 30, 31])]
    target.add(a)
    target.add(b)
    const step = advance(target)
    expect(rowsOf(step)).toEqual([
      [a.requestId, 18],
      [b.requestId, 2],
    ])
    expect([...b.blockTable.view.subarray(0, 4)]).toEqual([...a.blockTable.view.subarray(0, 4)])
    expect(target.pool.refCount(a.blockTable.at(0))).toBe(2)
  })

  it('copies what two prompts share of a block, computes the last token of a full hit, and says why it missed', () => {
    const target = scheduler({ maxNumBatchedTokens: 64 })
    const run = (tokens: readonly number[], fields: Parameters<typeof sequence>[1] = {}) => {
      const added = sequence(tokens, { maxOutputTokens: 1, ...fields })
      target.add(added)
      const step = advance(target)
      const [admission] = step.admitted
      if (admission === undefined) throw new Error('not admitted')
      const { numTokens, missReason } = admission.match
      return { hits: numTokens, missReason, copies: step.plan.blockCopies.map((copy) => copy.numTokens) }
    }
    expect(run(range(12))).toEqual({ hits: 0, missReason: 'cold', copies: [] })
    expect(run(range(12))).toEqual({ hits: 11, missReason: 'none', copies: [3] })
    expect(run([...range(10), 30, 31, 30])).toEqual({ hits: 10, missReason: 'diverged', copies: [2] })
    expect(run([...range(3), 30])).toEqual({ hits: 3, missReason: 'none', copies: [3] })
    expect(run(range(12), { cacheRoot: 'other tenant' })).toEqual({ hits: 0, missReason: 'cold', copies: [] })
    expect(run(range(12), { promptLogprobs: 0 })).toEqual({ hits: 0, missReason: 'disabled', copies: [] })
    expect(run(range(12), { cacheRoot: null })).toEqual({ hits: 0, missReason: 'disabled', copies: [] })
    for (let i = 0; i < 6; i++) run(range(28, i), { cacheRoot: `filler ${i}` })
    expect(run(range(12))).toEqual({ hits: 0, missReason: 'evicted', copies: [] })
  })

  it('compares tokens: two prompts whose hashes collide share nothing', () => {
    const target = scheduler({ maxNumBatchedTokens: 64, hash: () => 'the same for all' })
    target.add(sequence(range(9), { maxOutputTokens: 1 }))
    advance(target)
    target.add(sequence(range(9, 9), { maxOutputTokens: 1 }))
    expect(advance(target).admitted[0]?.match.numTokens).toBe(0)
  })

  it('forgets everything when the pool is lost', () => {
    const target = scheduler({ maxNumBatchedTokens: 64 })
    const first = sequence(range(12))
    target.add(first)
    advance(target)
    target.invalidate()
    target.finish(first)
    target.add(sequence(range(12)))
    expect(advance(target).admitted[0]?.match.numTokens).toBe(0)
    expect(target.pool.numFree).toBe(target.pool.numBlocks - 3)
  })
})

/** Random traffic over a runner whose pool tells wrong sharing: as the engine runs it, steps in flight and all. */
async function simulate(seed: number) {
  const random = createRandom(seed)
  const options = {
    blockSize: random.pick([1, 2, 4, 16]),
    numBlocks: 0,
    maxNumSeqs: random.int(1, 9),
    maxNumBatchedTokens: random.int(9, 40),
    maxSampleRows: random.int(9, 24),
    hash: weakHash,
  }
  const longest = 48
  options.numBlocks = Math.ceil(longest / options.blockSize) + random.int(0, 24)
  const target = new Scheduler(options)
  const order = random.pick([2, Infinity])
  const runner = new ScriptedRunner({ ...options, vocabSize: VOCAB, order })
  const runAhead = random.int(0, 2)
  const live = new Set<Sequence>()
  const finished: Sequence[] = []
  const inFlight: { step: ScheduledStep; result: Promise<StepResult> }[] = []
  const prefixes = Array.from({ length: 3 }, () => Array.from({ length: 24 }, () => random.int(0, VOCAB)))
  let numToCome = 40
  const finish = (ended: Sequence) => {
    target.finish(ended)
    live.delete(ended)
  }
  const checkCounts = () => {
    const users = new Map<number, number>()
    for (const each of live) for (const block of each.blockTable.view) users.set(block, (users.get(block) ?? 0) + 1)
    // Plain comparisons: an assertion a block would take longer than everything else.
    for (let block = 0; block < options.numBlocks; block++) {
      const [count, expected] = [target.pool.refCount(block), users.get(block) ?? 0]
      if (count !== expected) throw new Error(`block ${block}: ${count} references, ${expected} users`)
    }
    if (target.pool.numFree !== options.numBlocks - users.size) throw new Error('free blocks are miscounted')
    for (const each of live) {
      if (each.numComputedTokens > each.blockTable.length * options.blockSize)
        throw new Error('computed past its blocks')
    }
  }
  for (let turn = 0; numToCome > 0 || live.size > 0; turn++) {
    if (turn > 20_000) throw new Error(`still ${live.size} sequences after ${turn} turns`)
    while (numToCome > 0 && (live.size === 0 || random.next() < 0.3)) {
      numToCome--
      const prompt = [
        ...random.pick(prefixes).slice(0, random.int(0, 25)),
        ...range(random.int(1, 8), random.int(0, VOCAB)),
      ]
      const fields = {
        maxOutputTokens: random.int(0, longest - prompt.length + 1),
        priority: random.int(0, 2),
        cacheRoot: random.pick(['a', 'b', null]),
        tenant: random.pick(['a', 'a', 'a', 'b']),
      }
      const added = sequence(prompt, fields, random.next() < 0.2 ? 0.5 : 0)
      live.add(added)
      target.add(added)
    }
    for (const each of live)
      if (each.numOutputTokens > 0 && random.next() < 0.4)
        each.drafts = range(random.int(1, 4), each.tokens.at(each.tokens.length - 1))
    while (inFlight.length <= runAhead) {
      const { step } = target.schedule()
      checkCounts()
      if (step === null) break
      const numSampleRows = step.plan.sequences.reduce((sum, plan) => sum + plan.sample.length, 0)
      if (step.numRows > options.maxNumBatchedTokens || numSampleRows > options.maxSampleRows)
        throw new Error('over budget')
      if (step.sequences.length > options.maxNumSeqs) throw new Error('too many sequences')
      inFlight.push({ step, result: runner.execute(step.plan) })
    }
    const oldest = inFlight.shift()
    if (oldest === undefined) continue
    const result = await oldest.result
    for (const [i, entry] of oldest.step.sequences.entries()) {
      if (!live.has(entry.sequence)) continue
      const tokens = acceptDrafts(entry.drafts, result.sequences[i]?.tokens ?? [])
      target.settle(entry, tokens.length)
      if (tokens.length > 0) entry.sequence.counters.firstTokenMs ??= 1
      for (const token of tokens) {
        entry.sequence.tokens.push(token)
        entry.sequence.sampling.push(token)
        if (isComplete(entry.sequence)) break
      }
      const isScored =
        entry.sequence.maxOutputTokens === 0 && entry.startPosition + entry.numTokens === entry.sequence.numPromptTokens
      if (isScored || (tokens.length > 0 && isComplete(entry.sequence))) {
        finish(entry.sequence)
        finished.push(entry.sequence)
      } else target.publish(entry.sequence)
    }
    for (const each of live) if (random.next() < 0.01) finish(each)
    checkCounts()
  }
  expect(target.pool.numFree).toBe(options.numBlocks)
  return { finished, order, numPreemptions: finished.reduce((sum, each) => sum + each.counters.numPreemptions, 0) }
}

/** The same sequence with the pool for itself and no cache, a token per step. */
async function alone(original: Sequence, order: number): Promise<number[]> {
  const runner = new ScriptedRunner({ numBlocks: 64, blockSize: 1, vocabSize: VOCAB, maxNumBatchedTokens: 64, order })
  const target = scheduler({ numBlocks: 64, blockSize: 1, maxNumBatchedTokens: 64 })
  const prompt = [...original.tokens.view.subarray(0, original.numPromptTokens)]
  const copy = sequence(
    prompt,
    { maxOutputTokens: original.maxOutputTokens, cacheRoot: null },
    original.sampling.spec(0, null, [], 0).pending === null ? 0 : 0.5,
  )
  target.add(copy)
  while (copy.wantsMoreTokens) {
    const { step } = target.schedule()
    if (step === null) throw new Error('stuck')
    const [output] = (await runner.execute(step.plan)).sequences
    for (const entry of step.sequences) target.settle(entry, 1)
    copy.counters.firstTokenMs ??= 1
    for (const token of output?.tokens ?? []) {
      copy.tokens.push(token)
      copy.sampling.push(token)
    }
  }
  return [...copy.tokens.view]
}

describe('random traffic', () => {
  const numSeeds = (process.env.MINISERVE_TEST_LEVEL ?? 'default') === 'default' ? 25 : 2000

  it('ends every sequence with the tokens it has alone, counts every block, keeps every limit', async () => {
    let numPreemptions = 0
    for (let seed = 1; seed <= numSeeds; seed++) {
      const result = await simulate(seed).catch((cause: unknown) => {
        throw new Error(`seed ${seed}`, { cause })
      })
      numPreemptions += result.numPreemptions
      for (const each of result.finished)
        expect([...each.tokens.view], `seed ${seed}`).toEqual(await alone(each, result.order))
    }
    expect(numPreemptions).toBeGreaterThan(numSeeds / 4)
  }, 300_000)
})
