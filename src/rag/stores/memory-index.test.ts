import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { seededRandom, syntheticDocument } from '../../../test/rag/documents.ts'
import { MemoryIndex } from './memory-index.ts'
import { topRows } from './top-rows.ts'
import { VectorMatrix } from './vector-matrix.ts'

const here = (file: string): string => new URL(file, import.meta.url).pathname

describe('scan.wasm', () => {
  it.runIf(process.env['MINISERVE_TEST_LEVEL'] === 'full')('is the assembled scan.wat', () => {
    const folder = mkdtempSync(join(tmpdir(), 'miniserve-scan-'))
    try {
      const out = join(folder, 'scan.wasm')
      const assembler = here('../../../node_modules/binaryen/bin/wasm-as')
      execFileSync(process.execPath, [assembler, '--enable-simd', '-o', out, here('./scan.wat')], { stdio: 'ignore' })
      expect(readFileSync(out).equals(readFileSync(here('./scan.wasm')))).toBe(true)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('refuses rows that do not fit into its address space', () => {
    const matrix = new VectorMatrix(1024)
    expect([matrix.hasRoomFor(1_000_000), matrix.hasRoomFor(1_050_000)]).toEqual([true, false])
    expect(() => matrix.append(new Float32Array(7))).toThrow('expected a multiple of 1024 values, found 7')
  })

  it.each([1, 7, 8, 64, 100])('computes the dot products of %i dimensions', (dimensions) => {
    const random = seededRandom(dimensions)
    const matrix = new VectorMatrix(dimensions)
    const rows = Float32Array.from({ length: dimensions * 300 }, () => random() - 0.5)
    const query = Float32Array.from({ length: dimensions }, () => random() - 0.5)
    // Searches between the appends leave scores where the next rows go.
    for (let i = 0; i < 300; i += 100) {
      matrix.append(rows.subarray(i * dimensions, (i + 100) * dimensions))
      matrix.scores(query)
    }
    matrix.scores(query).forEach((score, row) => {
      let expected = 0
      for (let i = 0; i < dimensions; i++) expected += (rows[row * dimensions + i] ?? 0) * (query[i] ?? 0)
      expect(score).toBeCloseTo(expected, 5)
    })
    expect(new Float32Array(matrix.rowBytes(250).slice().buffer).subarray(0, dimensions)).toEqual(
      rows.slice(250 * dimensions, 251 * dimensions),
    )
  })
})

describe('topRows', () => {
  it('equals sorting, with ties by row', () => {
    const random = seededRandom(5)
    for (const depth of [1, 2, 7, 50, 1000]) {
      // Few distinct values, so that ties are the rule.
      const scores = Float32Array.from({ length: 500 }, () => Math.floor(random() * 20))
      const passes = (row: number) => row % 3 !== 0
      const expected = [...scores.keys()]
        .filter((row) => passes(row) && (scores[row] ?? 0) > 2)
        .sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b)
        .slice(0, depth)
      expect(topRows(scores, depth, 2, passes)).toEqual(expected)
    }
  })
})

describe('MemoryIndex', () => {
  const dimensions = 24

  it('finds exactly what a comparison with every chunk finds, through replacements, removals and a rebuild', () => {
    const random = seededRandom(11)
    const index = new MemoryIndex(dimensions)
    const expected = new Map<string, ReturnType<typeof syntheticDocument>>()
    for (let i = 0; i < 3000; i++) {
      const id = `doc-${Math.floor(random() * 400)}`
      if (random() < 0.2) {
        expect(index.delete(id)).toBe(expected.delete(id))
        continue
      }
      const document = syntheticDocument(id, dimensions, random)
      index.put(document)
      expected.set(id, document)
    }
    expect(index.numDocuments).toBe(expected.size)
    const all = [...expected.values()].flatMap(({ id, chunks, vectors }) =>
      chunks.map(({ chunk }) => ({
        key: `${id}#${chunk}`,
        vector: vectors.subarray(chunk * dimensions, (chunk + 1) * dimensions),
      })),
    )
    expect(index.numChunks).toBe(all.length)
    for (let trial = 0; trial < 20; trial++) {
      const query = syntheticDocument('query', dimensions, random).vectors.slice(0, dimensions)
      const exact = all
        .map(({ key, vector }) => ({ key, score: vector.reduce((sum, value, i) => sum + value * (query[i] ?? 0), 0) }))
        .sort((a, b) => b.score - a.score)
        .slice(0, 10)
      const found = index
        .search({ vector: query, text: '', depth: 10 })
        .sort((a, b) => (a.vectorRank ?? 0) - (b.vectorRank ?? 0))
      expect(found.map(({ documentId, chunk }) => `${documentId}#${chunk}`)).toEqual(exact.map(({ key }) => key))
      found.forEach(({ similarity }, i) => expect(similarity).toBeCloseTo(exact[i]?.score ?? NaN, 5))
    }
  })

  it('finds by words, by vector and by both, under a filter', () => {
    const index = new MemoryIndex(2)
    const put = (id: string, text: string, vector: number[], year: number) =>
      index.put({
        id,
        source: id,
        contentHash: id,
        origin: '',
        metadata: { year },
        chunks: [{ chunk: 0, text, headings: ['Guide'], start: 0, end: text.length, numTokens: 3 }],
        vectors: Float32Array.from(vector),
      })
    put('a', 'preempted sequences', [1, 0], 2024)
    put('b', 'walnut bread', [0, 1], 2025)
    put('c', 'sequences are preempted and recomputed', [0.6, 0.8], 2025)
    const search = (filter?: Record<string, number>) =>
      index.search({ vector: Float32Array.of(0, 1), text: 'preempted sequence', depth: 2, ...(filter && { filter }) })
    const ranks = (found: ReturnType<typeof search>) =>
      Object.fromEntries(found.map((hit) => [hit.documentId, [hit.vectorRank, hit.textRank]]))
    expect(ranks(search())).toEqual({ b: [1, null], c: [2, 2], a: [null, 1] })
    expect(ranks(search({ year: 2024 }))).toEqual({ a: [1, 1] })
    expect(search({ year: 1999 })).toEqual([])
    expect(search().find((hit) => hit.documentId === 'a')?.similarity).toBeCloseTo(0)
  })
})
