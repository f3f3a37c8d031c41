/** Logits, sampling to the SampleSpec, log-probabilities, scores, tokens that stay on the device. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createReferenceBackend } from '../../src/kernels/reference/backend.ts'
import type { InspectableBackend } from '../../src/kernels/inspect.ts'
import type { Activation, LogitsOptions, Matrix } from '../../src/kernels/ops.ts'
import type { SampleRow, SampleSpec, TokenLogprobs } from '../../src/kernels/sample-spec.ts'
import { GREEDY, resolvePending, Sampler, tokenLogprobs } from '../../src/kernels/sampling.ts'
import {
  BLOCK_SIZE,
  LIMITS,
  backendOptions,
  expectBitEqual,
  expectClose,
  firstRows,
  generator,
  isFull,
  plainStep,
  randomMatrix,
  randomValues,
  stepInput,
  type CreateBackend,
  type Tolerances,
} from './fixtures.ts'

const COLS = 64
/** No multiple of any tile; the larger one needs several workgroups a row. */
const VOCABS = isFull ? [997, 50_001] : [4_999]
/** Specs that use every field, alone and together. */
function randomSpec(seed: number, vocab: number): SampleSpec {
  const next = generator(seed)
  const uniform = () => (next() + 1) / 2
  const pick = (count: number) =>
    Int32Array.from(new Set(Array.from({ length: count }, () => Math.floor(uniform() * vocab))))
  const adjusted = pick(40)
  const mask = new Uint32Array(Math.ceil(vocab / 32))
  for (let word = 0; word < mask.length; word++) mask[word] = Math.floor(uniform() * 2 ** 32)
  return {
    temperature: uniform() < 0.2 ? 0 : 0.2 + 1.5 * uniform(),
    topK: uniform() < 0.5 ? 0 : 1 + Math.floor(uniform() * 200),
    topP: uniform() < 0.4 ? 1 : 0.3 + 0.69 * uniform(),
    minP: uniform() < 0.5 ? 0 : 0.2 * uniform(),
    seed: Math.floor(uniform() * 2 ** 32),
    choice: Math.floor(uniform() * 4),
    repetition: uniform() < 0.6 ? null : { penalty: 1 + uniform(), tokens: pick(60) },
    adjustments:
      uniform() < 0.6
        ? null
        : { tokens: adjusted, deltas: Float32Array.from(adjusted, () => (uniform() < 0.2 ? -Infinity : next() * 6)) },
    pending: null,
    mask: uniform() < 0.6 ? null : mask,
    logprobs: uniform() < 0.7 ? -1 : Math.floor(uniform() * 21),
  }
}

function expectLogprobs(actual: TokenLogprobs | null | undefined, expected: TokenLogprobs, what: string): void {
  if (actual === null || actual === undefined) expect.fail(`${what}: log-probabilities are missing`)
  expect(actual.logprob, `${what}: logprob`).toBeCloseTo(expected.logprob, 3)
  expect(actual.rank, `${what}: rank`).toBe(expected.rank)
  expect([...actual.topTokens], `${what}: topTokens`).toEqual([...expected.topTokens])
  for (const [i, value] of expected.topLogprobs.entries()) {
    expect(actual.topLogprobs[i], `${what}: topLogprobs[${i}]`).toBeCloseTo(value, 3)
  }
}

interface Loaded {
  readonly head: Matrix
  readonly x: Activation
  readonly out: Activation
  readonly options: LogitsOptions
}

async function load(backend: InspectableBackend, vocab: number): Promise<Loaded> {
  const head = await backend.loadMatrix('head', vocab, COLS, randomMatrix('f16', 600, vocab, COLS))
  const weight = backend.loadVector(
    'norm',
    randomValues(601, COLS).map((value) => 1 + value / 2),
  )
  const x = backend.createActivation('x', COLS)
  const out = backend.createActivation('out', COLS)
  backend.createKvCache({ numBlocks: 16, blockSize: BLOCK_SIZE, layers: [{ numKvHeads: 1, headDim: 16 }] })
  await backend.ready()
  return { head, x, out, options: { norm: { weight, eps: 1e-5 }, softcap: 30, scale: 0.75 } }
}

export function describeSampling(create: CreateBackend, tolerances: Tolerances): void {
  for (const vocab of VOCABS) {
    describe(`sampling, vocabulary of ${vocab}`, () => {
      const numRows = 23
      const values = randomValues(610, numRows * COLS, 2)
      let tested: InspectableBackend
      let reference: InspectableBackend
      let ours: Loaded
      let theirs: Loaded
      const sampler = new Sampler(vocab)

      beforeAll(async () => {
        tested = await create(backendOptions())
        reference = await createReferenceBackend(backendOptions())
        ours = await load(tested, vocab)
        theirs = await load(reference, vocab)
      })
      afterAll(async () => {
        await tested?.close()
        await reference?.close()
      })

      async function run(backend: InspectableBackend, loaded: Loaded, rows: readonly SampleRow[], count = numRows) {
        backend.debugWrite(loaded.x, values.subarray(0, count * COLS))
        backend.beginStep(plainStep(count))
        backend.sample(loaded.x, loaded.head, loaded.options, rows)
        return backend.endStep({ logits: true })
      }

      it('gives the reference logits, the same bits for any selection of rows', async () => {
        const all = [22, 0, 7, 7, 3, 15, 16].map((row) => ({ row, spec: GREEDY }))
        const { logits, sampled, sampledLogprobs } = await run(tested, ours, all)
        const expected = (await run(reference, theirs, all)).logits
        if (logits === null || expected === null) expect.fail('endStep({ logits: true }) gave no logits')
        expectClose(logits, expected, tolerances.f16, 'logits')
        expect(sampled).toHaveLength(all.length)
        expect(sampledLogprobs).toEqual(all.map(() => null))
        for (const [index, { row }] of all.entries()) {
          const alone = (await run(tested, ours, [{ row, spec: GREEDY }], row + 1)).logits
          if (alone === null) expect.fail('no logits')
          expectBitEqual(alone, logits.slice(index * vocab, (index + 1) * vocab), `row ${row} alone`)
        }
      })

      it('draws the tokens of the definition', async () => {
        const rounds = isFull ? 60 : 16
        for (let round = 0; round < rounds; round++) {
          const rows = Array.from({ length: 1 + (round % LIMITS.maxSampleRows) }, (_, i) => ({
            row: (round * 7 + i * 5) % numRows,
            spec: round === 0 ? GREEDY : randomSpec(700 + round * 100 + i, vocab),
          }))
          const { logits, sampled, sampledLogprobs } = await run(tested, ours, rows)
          if (logits === null) expect.fail('no logits')
          for (const [index, { row, spec }] of rows.entries()) {
            const raw = logits.subarray(index * vocab, (index + 1) * vocab)
            const what = `round ${round}, sample row ${index} (${JSON.stringify({ ...spec, mask: null, repetition: null, adjustments: null })})`
            expect(sampled[index], what).toBe(sampler.sample(raw, spec, row + 1))
            if (spec.logprobs < 0) expect(sampledLogprobs[index], what).toBeNull()
            else {
              const expected = tokenLogprobs(raw, sampled[index]!, spec.logprobs)
              expectLogprobs(sampledLogprobs[index], expected, what)
            }
          }
        }
      })

      it('obeys a mask and a ban that leave one token', async () => {
        const only = 31
        const mask = new Uint32Array(Math.ceil(vocab / 32))
        mask[only >> 5] = (1 << (only & 31)) >>> 0
        const spec = { ...GREEDY, temperature: 1, topP: 0.5, mask }
        const banned = {
          ...GREEDY,
          adjustments: { tokens: Int32Array.of(0), deltas: Float32Array.of(-Infinity) },
          mask: new Uint32Array(mask.length).fill(0),
        }
        banned.mask[0] = 0b11
        const { sampled } = await run(tested, ours, [
          { row: 0, spec },
          { row: 1, spec: banned },
        ])
        expect([...sampled]).toEqual([only, 1])
      })

      it('scores given tokens', async () => {
        const rows = Array.from({ length: numRows }, (_, row) => ({
          row,
          target: (row * 977) % vocab,
          topN: row % 6 === 5 ? 20 : row % 4,
        }))
        const samples = rows.slice(0, LIMITS.maxSampleRows).map(({ row }) => ({ row, spec: GREEDY }))
        const { logits } = await run(tested, ours, samples)
        if (logits === null) expect.fail('no logits')
        tested.debugWrite(ours.x, values)
        tested.beginStep(plainStep(numRows))
        tested.score(ours.x, ours.head, ours.options, rows)
        tested.sample(ours.x, ours.head, ours.options, [{ row: 0, spec: GREEDY }])
        const { scores, sampled } = await tested.endStep()
        expect(scores).toHaveLength(numRows)
        expect(sampled).toHaveLength(1)
        for (const [index, { row, target, topN }] of rows.slice(0, samples.length).entries()) {
          const raw = logits.subarray(index * vocab, (index + 1) * vocab)
          expectLogprobs(scores[index], tokenLogprobs(raw, target, topN), `score row ${row}`)
        }
      })

      it('counts a token of the step before that is still in flight', async () => {
        const first = [0, 1, 2, 3].map((row) => ({ row, spec: { ...GREEDY, temperature: 1, seed: row } }))
        const drawn = (await run(tested, ours, first)).sampled
        // Of each row's token: listed in neither, in one, in both.
        const lists = [...drawn].map((token, i) => ({
          repetition: { penalty: 1.7, tokens: Int32Array.from(i % 2 === 0 ? [token, 5] : [5]) },
          adjustments: {
            tokens: Int32Array.from(i < 2 ? [9, token] : [9]),
            deltas: Float32Array.from(i < 2 ? [-1, -2] : [-1]),
          },
          pending: { row: i, delta: -1e9, deltas: Float32Array.from(i < 2 ? [-3, -1e9] : [-3]) },
        }))
        const specs: SampleSpec[] = lists.flatMap((list) => [
          { ...GREEDY, ...list },
          { ...GREEDY, ...list, temperature: 0.9, topP: 0.8, seed: 3, logprobs: 2 },
          { ...GREEDY, repetition: list.repetition, pending: { ...list.pending, delta: 0, deltas: null } },
        ])
        tested.debugWrite(ours.x, values)
        tested.beginStep(plainStep(numRows))
        tested.sample(ours.x, ours.head, ours.options, first)
        const before = tested.endStep()
        tested.beginStep(plainStep(numRows))
        // The rows that drew the tokens: theirs are the largest logits.
        const rows = specs.map((spec, i) => ({ row: Math.floor(i / 3), spec }))
        tested.sample(ours.x, ours.head, ours.options, rows)
        const { logits, sampled, sampledLogprobs } = await tested.endStep({ logits: true })
        expect([...(await before).sampled]).toEqual([...drawn])
        if (logits === null) expect.fail('no logits')
        for (const [i, { row, spec }] of rows.entries()) {
          const raw = logits.subarray(i * vocab, (i + 1) * vocab)
          const resolved = resolvePending(spec, drawn)
          expect(sampled[i], `row ${i}`).toBe(sampler.sample(raw, resolved, row + 1))
          if (i % 3 < 2) expect(sampled[i], `row ${i}`).not.toBe(drawn[row])
          if (spec.logprobs >= 0)
            expectLogprobs(sampledLogprobs[i], tokenLogprobs(raw, sampled[i]!, spec.logprobs), `row ${i}`)
        }
      })

      it('feeds sampled tokens to the next step while both are in flight', async () => {
        const samples = [3, 9, 9, 20].map((row, i) => ({ row, spec: { ...GREEDY, temperature: 1.2, seed: i } }))
        const tokens = [-3, 5, -1, -4]
        const sequences = tokens.map((token, i) => ({ start: 40, numTokens: 1, blocks: [i, i, i], tokens: [token] }))
        tested.debugWrite(ours.x, values)
        tested.beginStep(plainStep(numRows))
        tested.sample(ours.x, ours.head, ours.options, samples)
        const first = tested.endStep()
        tested.beginStep(stepInput(sequences))
        tested.embed(ours.out, ours.head, 1)
        tested.sample(ours.out, ours.head, ours.options, [{ row: 2, spec: GREEDY }])
        const second = tested.endStep()
        const { sampled } = await first
        const known = tokens.map((token) => (token < 0 ? sampled[-token - 1]! : token))
        const next = await second
        const chained = firstRows(await tested.debugRead(ours.out), tokens.length, COLS)
        tested.beginStep(stepInput(sequences.map((sequence, i) => ({ ...sequence, tokens: [known[i]!] }))))
        tested.embed(ours.out, ours.head, 1)
        tested.sample(ours.out, ours.head, ours.options, [{ row: 2, spec: GREEDY }])
        const plain = await tested.endStep()
        expectBitEqual(chained, firstRows(await tested.debugRead(ours.out), tokens.length, COLS), 'embedding')
        expect([...next.sampled]).toEqual([...plain.sampled])
      })
    })
  }
}
