/** qkvRopeStore, attention over the paged pool, copyBlock, readBlocks and writeBlocks. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createReferenceBackend } from '../../src/kernels/reference/backend.ts'
import type { InspectableBackend } from '../../src/kernels/inspect.ts'
import type { AttentionOptions, QkNormKind, QkvOptions } from '../../src/kernels/attention-options.ts'
import type { Activation, KvFormat, KvLayout, KvShape } from '../../src/kernels/ops.ts'
import {
  BLOCK_SIZE,
  backendOptions,
  expectBitEqual,
  expectClose,
  isFull,
  randomValues,
  stepInput,
  readRows,
  writeRows,
  type Coverage,
  type CreateBackend,
  type SequenceFixture,
  type Tolerances,
} from './fixtures.ts'

interface AttentionCase {
  readonly numHeads: number
  readonly numKvHeads: number
  readonly headDim: number
  readonly qkNorm: 'none' | QkNormKind
  /** Leading dims of a head that are rotated; 0: no rope. */
  readonly rotaryDim: number
  readonly window: number | null
  readonly softcap: number | null
  /** Each head has a logit beside its scores. */
  readonly hasSinks?: boolean
  /** Heads of v are divided by their lengths. */
  readonly hasVNorm?: boolean
}

const CASES: readonly AttentionCase[] = [
  { numHeads: 9, numKvHeads: 3, headDim: 64, qkNorm: 'none', rotaryDim: 64, window: null, softcap: null },
  { numHeads: 2, numKvHeads: 2, headDim: 16, qkNorm: 'rotatedHead', rotaryDim: 16, window: null, softcap: null },
  {
    numHeads: 4,
    numKvHeads: 2,
    headDim: 128,
    qkNorm: 'head',
    rotaryDim: 128,
    window: 37,
    softcap: null,
    hasSinks: true,
  },
  { numHeads: 7, numKvHeads: 1, headDim: 32, qkNorm: 'full', rotaryDim: 16, window: null, softcap: 20 },
]
const FULL_CASES: readonly AttentionCase[] = [
  { numHeads: 3, numKvHeads: 3, headDim: 48, qkNorm: 'full', rotaryDim: 48, window: null, softcap: null },
  { numHeads: 4, numKvHeads: 1, headDim: 80, qkNorm: 'none', rotaryDim: 0, window: 1, softcap: null },
  { numHeads: 4, numKvHeads: 4, headDim: 96, qkNorm: 'head', rotaryDim: 32, window: 64, softcap: 30 },
  { numHeads: 4, numKvHeads: 1, headDim: 256, qkNorm: 'head', rotaryDim: 256, window: 100, softcap: null },
  {
    numHeads: 14,
    numKvHeads: 2,
    headDim: 64,
    qkNorm: 'none',
    rotaryDim: 64,
    window: null,
    softcap: null,
    hasSinks: true,
  },
  { numHeads: 2, numKvHeads: 2, headDim: 16, qkNorm: 'head', rotaryDim: 16, window: null, softcap: null },
  { numHeads: 16, numKvHeads: 1, headDim: 32, qkNorm: 'none', rotaryDim: 32, window: null, softcap: null },
  {
    numHeads: 8,
    numKvHeads: 1,
    headDim: 512,
    qkNorm: 'head',
    rotaryDim: 512,
    window: null,
    softcap: null,
    hasVNorm: true,
  },
]

const NUM_LAYERS = 2
const NUM_BLOCKS = 64
/** Longest context: past several split borders of any backend that splits by 64 or 128, and no multiple of anything. */
const CONTEXT = 301

/** Scattered block ids: position order and pool order have nothing in common. */
function scatteredBlocks(offset: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => (offset + i * 29) % NUM_BLOCKS)
}

/** One backend loaded for one case; runs steps over the columns of a fixed random sequence of q, k and v. */
class Bench {
  readonly backend: InspectableBackend
  readonly test: AttentionCase
  readonly layout: KvLayout
  readonly #qkv: Activation
  readonly #queries: Activation
  readonly #q: Activation
  readonly #out: Activation
  readonly #qkvOptions: Omit<QkvOptions, 'layer'>
  readonly #attention: Omit<AttentionOptions, 'layer'>

  constructor(backend: InspectableBackend, test: AttentionCase, layers?: readonly KvShape[]) {
    const { headDim, numHeads, numKvHeads } = test
    const alike = Array.from({ length: NUM_LAYERS }, () => ({ numKvHeads, headDim }))
    this.backend = backend
    this.test = test
    this.layout = { numBlocks: NUM_BLOCKS, blockSize: BLOCK_SIZE, layers: layers ?? alike }
    this.#qkv = backend.createActivation('qkv', (numHeads + 2 * numKvHeads) * headDim)
    this.#queries = backend.createActivation('queries', numHeads * headDim)
    this.#q = backend.createActivation('q', numHeads * headDim)
    this.#out = backend.createActivation('out', numHeads * headDim)
    const frequencies = Float64Array.from(
      { length: test.rotaryDim / 2 },
      (_, i) => 10000 ** (-2 * (i / test.rotaryDim)),
    )
    const width = (heads: number) => (test.qkNorm === 'full' ? heads * headDim : headDim)
    const norm = (heads: number, seed: number) => ({
      weight: backend.loadVector(
        `norm ${seed}`,
        randomValues(seed, width(heads)).map((value) => 1 + value / 2),
      ),
      eps: 1e-6,
    })
    const kind = test.qkNorm
    this.#qkvOptions = {
      numHeads,
      numKvHeads,
      headDim,
      qkNorm: kind === 'none' ? null : { kind, q: norm(numHeads, 1), k: norm(numKvHeads, 2) },
      vNorm: test.hasVNorm === true ? { eps: 1e-6 } : null,
      rope: test.rotaryDim === 0 ? null : backend.loadRope('rope', frequencies, 1.25),
    }
    const scale = headDim ** -0.5
    const sinks = test.hasSinks === true ? backend.loadVector('sinks', randomValues(3, numHeads, 2)) : null
    this.#attention = { numHeads, numKvHeads, headDim, scale, window: test.window, softcap: test.softcap, sinks }
  }

  async prepare(): Promise<this> {
    this.backend.createKvCache(this.layout)
    await this.backend.ready()
    return this
  }

  /** Runs one step in which row i takes row `sources[i]` of the random qkv; gives q and out, [numRows, numHeads * headDim]. */
  async step(
    sequences: readonly SequenceFixture[],
    sources: readonly number[],
    layer = 0,
    copies: readonly (readonly [number, number, number])[] = [],
    isQueryOnly = false,
  ): Promise<{ q: Float32Array; out: Float32Array }> {
    const { backend } = this
    const from = isQueryOnly ? this.#queries : this.#qkv
    const { cols } = from
    const values = new Float32Array(sources.length * cols)
    for (const [row, source] of sources.entries())
      values.set(randomValues(9000 + source, this.#qkv.cols, 3).subarray(0, cols), row * cols)
    writeRows(backend, from, values, sources.length)
    for (const activation of [this.#q, this.#out]) writeRows(backend, activation, values, 0)
    for (const [source, destination, numTokens] of copies) backend.copyBlock(source, destination, numTokens)
    backend.beginStep(stepInput(sequences))
    backend.qkvRopeStore(this.#q, from, { ...this.#qkvOptions, layer, isQueryOnly })
    backend.attention(this.#out, this.#q, { ...this.#attention, layer })
    await backend.endStep()
    const q = await readRows(backend, this.#q, sources.length)
    return { q, out: await readRows(backend, this.#out, sources.length) }
  }

  /** The sequence of rows 0 .. length - 1 computed in chunks, on the given blocks; out of all rows. */
  async prefill(length: number, chunk: number, blocks: readonly number[], layer = 0): Promise<Float32Array> {
    const out = new Float32Array(length * this.#out.cols)
    for (let start = 0; start < length; start += chunk) {
      const numTokens = Math.min(chunk, length - start)
      const sources = Array.from({ length: numTokens }, (_, i) => start + i)
      const result = await this.step([{ start, numTokens, blocks }], sources, layer)
      out.set(result.out, start * this.#out.cols)
    }
    return out
  }
}

function title(test: AttentionCase): string {
  const { headDim, numHeads, numKvHeads, qkNorm, rotaryDim, softcap, window } = test
  return `${numHeads}/${numKvHeads} heads of ${headDim}, norm ${qkNorm}, rotary ${rotaryDim}, window ${window}, softcap ${softcap}`
}

export function describeAttention(create: CreateBackend, tolerances: Tolerances, coverage: Coverage): void {
  const chunks = isFull ? [1, 7, 16, 64] : coverage === 'all' ? [7, 64] : [33]
  describeFormat(create, tolerances, [...CASES, ...(isFull ? FULL_CASES : [])], chunks)
  describe('KV in q8', () => {
    const cases = isFull ? [...CASES, ...FULL_CASES] : coverage === 'all' ? CASES.slice(0, 3) : CASES.slice(2, 3)
    describeFormat((options) => create({ ...options, kvFormat: 'q8' }), tolerances, cases, chunks, 'q8')
  })
}

function describeFormat(
  create: CreateBackend,
  tolerances: Tolerances,
  cases: readonly AttentionCase[],
  chunks: readonly number[],
  kvFormat?: KvFormat,
): void {
  const format = kvFormat === undefined ? {} : { kvFormat }
  for (const test of cases) {
    describe(`attention, ${title(test)}`, () => {
      const numBlocks = Math.ceil(CONTEXT / BLOCK_SIZE)
      const blocks = scatteredBlocks(3, numBlocks)
      const elsewhere = scatteredBlocks(40, numBlocks)
      let tested: Bench
      let reference: Bench
      let whole: Float32Array

      beforeAll(async () => {
        tested = await new Bench(await create(backendOptions()), test).prepare()
        reference = await new Bench(await createReferenceBackend({ ...backendOptions(), ...format }), test).prepare()
        whole = await tested.prefill(CONTEXT, 128, blocks)
      })
      afterAll(async () => {
        await tested?.backend.close()
        await reference?.backend.close()
      })

      it('matches the reference, over the whole context', async () => {
        const expected = await reference.prefill(CONTEXT, 128, blocks)
        expectClose(whole, expected, tolerances.attention, 'out')
        const rows = [0, 1, 2]
        const ours = await tested.step([{ start: 0, numTokens: 3, blocks: elsewhere }], rows, 1)
        const theirs = await reference.step([{ start: 0, numTokens: 3, blocks: elsewhere }], rows, 1)
        expectClose(ours.q, theirs.q, tolerances.f32, 'q')
      })

      it('gives the same bits for every chunk size and on other blocks', { timeout: 300_000 }, async () => {
        for (const chunk of chunks) {
          expectBitEqual(await tested.prefill(CONTEXT, chunk, elsewhere, 1), whole, `chunks of ${chunk}`)
        }
        // One token at a time is what decoding does; the tail alone crosses a block and a tile border.
        const cols = whole.length / CONTEXT
        for (const position of [CONTEXT - 1, 288, 272, 256, 129, 128, 127, 16, 15, 0]) {
          const sequence = { start: position, numTokens: 1, blocks: elsewhere }
          const { out } = await tested.step([sequence], [position], 1)
          expectBitEqual(out, whole.slice(position * cols, (position + 1) * cols), `position ${position} alone`)
        }
      })

      it('gives the same bits in any batch', async () => {
        const cols = whole.length / CONTEXT
        const others = scatteredBlocks(17, 4)
        // Prefill and decode rows mixed, the same sequence first, in the middle and last.
        const decode = { start: 200, numTokens: 1, blocks }
        const chunk = { start: 0, numTokens: 21, blocks: others }
        const chunkRows = Array.from({ length: 21 }, (_, i) => i)
        for (const [order, sequences] of [
          [decode, chunk],
          [chunk, decode],
        ].entries()) {
          const sources = order === 0 ? [200, ...chunkRows] : [...chunkRows, 200]
          const { out } = await tested.step(sequences, sources)
          const at = order === 0 ? 0 : 21
          expectBitEqual(out.slice(at * cols, (at + 1) * cols), whole.slice(200 * cols, 201 * cols), `order ${order}`)
          const first = order === 0 ? 1 : 0
          expectBitEqual(
            out.slice(first * cols, (first + 21) * cols),
            whole.slice(0, 21 * cols),
            `chunk, order ${order}`,
          )
        }
        // Several sequences over shared blocks, each writing the same values to its own position.
        const positions = [300, 5, 64, 63, 130]
        const { out } = await tested.step(
          positions.map((start) => ({ start, numTokens: 1, blocks })),
          positions,
        )
        for (const [index, position] of positions.entries()) {
          const there = out.slice(index * cols, (index + 1) * cols)
          expectBitEqual(there, whole.slice(position * cols, (position + 1) * cols), `position ${position} of a batch`)
        }
      })
    })
  }

  it('has layers with heads of other sizes in the same blocks, and layers that store nothing', async () => {
    const wide: AttentionCase = { ...CASES[0]!, qkNorm: 'head', hasVNorm: true }
    const narrow: AttentionCase = { ...CASES[1]!, numHeads: 8, numKvHeads: 1, qkNorm: 'head', hasVNorm: true }
    const layers = [wide, narrow, wide]
    const blocks = [7, 3, 5]
    const backend = await create(backendOptions())
    const reference = await createReferenceBackend({ ...backendOptions(), ...format })
    try {
      const [mixedWide, mixedNarrow] = [new Bench(backend, wide, layers), new Bench(backend, narrow, layers)]
      const benches = [mixedWide, mixedNarrow, mixedWide]
      const apart = [new Bench(reference, wide, layers), new Bench(reference, narrow, layers)]
      await mixedWide.prepare()
      await apart[0]!.prepare()
      const out: Float32Array[] = []
      for (const [layer, bench] of benches.entries()) out.push(await bench.prefill(40, 17, blocks, layer))
      const [before, ...others] = out
      expectBitEqual(others[1]!, before!, 'layers alike')
      expectClose(before!, await apart[0]!.prefill(40, 17, blocks, 0), tolerances.attention, 'wide')
      expectClose(others[0]!, await apart[1]!.prefill(40, 17, blocks, 1), tolerances.attention, 'narrow')
      const bytes = await backend.readBlocks(blocks)
      expect(bytes.byteLength).toBe(blocks.length * backend.kvBlockBytes(mixedWide.layout))
      await backend.writeBlocks([20, 21, 22], bytes)
      for (const [layer, bench] of benches.entries()) {
        const rows = Array.from({ length: 9 }, (_, i) => 31 + i)
        const sequence = { start: 31, numTokens: 9, blocks }
        const stored = await bench.step([sequence], rows, layer)
        const query = await bench.step([{ ...sequence, blocks: [20, 21, 22] }], rows, layer, [], true)
        expectBitEqual(query.out, stored.out, `queries alone, layer ${layer}`)
        expectBitEqual(query.q, stored.q, `queries of layer ${layer}`)
        const copied = await bench.step([{ ...sequence, blocks: [7, 3, 30] }], rows, layer, [[5, 30, 8]], true)
        expectBitEqual(copied.out, stored.out, `a copied block, layer ${layer}`)
      }
      expect(Buffer.compare(await backend.readBlocks(blocks), bytes)).toBe(0)
    } finally {
      await backend.close()
      await reference.close()
    }
  })

  describe('blocks', () => {
    const test = CASES[0]!
    const blocks = [4, 5, 6]
    let bench: Bench

    beforeAll(async () => {
      bench = await new Bench(await create(backendOptions()), test).prepare()
      for (let layer = 0; layer < NUM_LAYERS; layer++) await bench.prefill(40, 40, blocks, layer)
    })
    afterAll(async () => {
      await bench?.backend.close()
    })

    it('copies the leading tokens of a block, in every layer, before the step', async () => {
      for (let layer = 0; layer < NUM_LAYERS; layer++) {
        const { out } = await bench.step([{ start: 39, numTokens: 1, blocks }], [39], layer)
        // Garbage first, so that what is not copied shows.
        await bench.step(
          [{ start: 0, numTokens: 16, blocks: [20] }],
          Array.from({ length: 16 }, (_, i) => 500 + i),
          layer,
        )
        const copied = await bench.step([{ start: 39, numTokens: 1, blocks: [4, 5, 20] }], [39], layer, [[6, 20, 7]])
        expectBitEqual(copied.out, out, `layer ${layer}`)
      }
      // Only the leading tokens: the block's fifth token stays its own.
      const before = await bench.step([{ start: 5, numTokens: 1, blocks: [20] }], [505])
      const after = await bench.step([{ start: 5, numTokens: 1, blocks: [21] }], [505], 0, [
        [20, 21, 16],
        [4, 21, 0],
      ])
      expectBitEqual(after.out, before.out, 'copies apply in order')
    })

    it('reads and writes blocks as opaque bytes', async () => {
      const { backend, layout } = bench
      const blockBytes = backend.kvBlockBytes(layout)
      const bytes = await backend.readBlocks(blocks)
      expect(bytes.byteLength).toBe(blocks.length * blockBytes)
      await backend.writeBlocks([30, 31, 32], bytes)
      expect(Buffer.compare(await backend.readBlocks([30, 31, 32]), bytes)).toBe(0)
      expect(Buffer.compare(await backend.readBlocks([32]), bytes.subarray(2 * blockBytes))).toBe(0)
      for (let layer = 0; layer < NUM_LAYERS; layer++) {
        const there = await bench.step([{ start: 39, numTokens: 1, blocks: [30, 31, 32] }], [39], layer)
        const here = await bench.step([{ start: 39, numTokens: 1, blocks }], [39], layer)
        expectBitEqual(there.out, here.out, `layer ${layer}`)
      }
      expect(await backend.readBlocks([])).toHaveLength(0)
    })
  })
}
