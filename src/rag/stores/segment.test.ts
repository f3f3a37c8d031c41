import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { seededRandom, syntheticDocument } from '../../../test/rag/documents.ts'
import type { EmbeddedDocument } from '../vector-index.ts'
import { openIndexFile, packIndexFile } from './index-file.ts'
import { encodeRecord, MAGIC } from './journal.ts'
import { JournaledIndex } from './journaled-index.ts'
import { LocalMemoryStore } from './memory-local.ts'
import { MemoryIndex } from './memory-index.ts'
import { SECTIONS, segmentLayout } from './segment.ts'

/** No multiple of 8: rows are padded. */
const DIMENSIONS = 12
const SPEC = { model: 'test@1', dimensions: DIMENSIONS }
const folder = mkdtempSync(join(tmpdir(), 'miniserve-segment-'))
afterAll(() => rmSync(folder, { recursive: true }))

const CALLS = { whileWriting: () => undefined, beforeRename: () => undefined }
const opened = (path: string) => openIndexFile(path, basename(path, '.idx'))
const pack = (name: string, memory: MemoryIndex): string => {
  const path = join(folder, `${name}.idx`)
  packIndexFile(path, name, memory, SPEC, CALLS)
  return path
}

/** An index that has only these documents, and never had others. */
function freshOf(documents: ReadonlyMap<string, EmbeddedDocument>): MemoryIndex {
  const memory = new MemoryIndex(DIMENSIONS)
  for (const document of documents.values()) memory.put(document)
  return memory
}

/** Everything that can be asked of an index, with rounded numbers. */
function answersOf(memory: MemoryIndex, documents: ReadonlyMap<string, EmbeddedDocument>) {
  const queries = [...documents.values()].slice(0, 4).map(({ chunks, vectors }) => ({
    vector: vectors.slice(0, DIMENSIONS),
    text: chunks[0]?.text ?? '',
    depth: 10,
  }))
  const found = queries.map((query) =>
    memory
      .search(query)
      .map(({ similarity, textShare, documentShare, documentSimilarity, ...candidate }) => ({
        ...candidate,
        shares: [similarity, textShare, documentShare, documentSimilarity].map((value) => value.toFixed(4)),
      }))
      .toSorted((a, b) => `${a.documentId} ${a.chunk}`.localeCompare(`${b.documentId} ${b.chunk}`)),
  )
  const { numDocuments, numChunks } = memory
  return { numDocuments, numChunks, found, documents: [...documents.keys()].map((id) => memory.get(id)) }
}

describe('a packed index', () => {
  it('answers like one filled in memory, whatever was added, replaced and removed before and after', () => {
    const random = seededRandom(11)
    const documents = new Map<string, EmbeddedDocument>()
    let memory = new MemoryIndex(DIMENSIONS)
    for (let round = 0; round < 4; round++) {
      for (let i = 0; i < 60; i++) {
        const id = `ü${Math.floor(random() * 40)}`
        if (random() < 0.3) {
          documents.delete(id)
          memory.delete(id)
        } else {
          const document = syntheticDocument(id, DIMENSIONS, random)
          documents.delete(id)
          documents.set(id, document)
          memory.put(document)
        }
      }
      const expected = answersOf(freshOf(documents), documents)
      expect(answersOf(memory, documents)).toEqual(expected)
      memory = opened(pack(`round-${round}`, memory)).memory
      expect(answersOf(memory, documents)).toEqual(expected)
    }
    for (const id of documents.keys()) memory.delete(id)
    const empty = opened(pack('emptied', memory)).memory
    expect(empty).toMatchObject({ numDocuments: 0, numChunks: 0 })
    expect(empty.search({ vector: new Float32Array(DIMENSIONS), text: 'a', depth: 3 })).toEqual([])
  })

  it('that is damaged anywhere is refused by name', () => {
    const memory = new MemoryIndex(DIMENSIONS)
    const random = seededRandom(5)
    for (let i = 0; i < 8; i++) memory.put(syntheticDocument(`d${i}`, DIMENSIONS, random))
    const path = pack('damaged', memory)
    const whole = readFileSync(path)
    const { header, reader } = opened(path)
    reader.close()
    const { sections } = segmentLayout.parse(header.segment)
    let at = 4096
    for (const name of SECTIONS) {
      const damaged = Buffer.from(whole)
      const place = at + (sections[name].bytes >> 1)
      damaged.writeUInt8((damaged[place] ?? 0) ^ 1, place)
      writeFileSync(path, damaged)
      expect(() => opened(path)).toThrow(`index damaged: its section ${name} is damaged`)
      at += Math.ceil(sections[name].bytes / 8) * 8
    }
    for (const length of [at - 1, at >> 1, 4096, 100]) {
      writeFileSync(path, whole.subarray(0, length))
      expect(() => opened(path)).toThrow(/index damaged: /)
    }
    const damaged = Buffer.from(whole)
    damaged.writeUInt8(damaged.readUInt8(200) ^ 1, 200)
    writeFileSync(path, damaged)
    expect(() => opened(path)).toThrow(/index damaged: /)
  })
})

describe('a file that was copied', () => {
  it.each(['other', 'key:pack', 'Pack'])('is not the index %s', (name) => {
    const memory = new MemoryIndex(DIMENSIONS)
    memory.put(syntheticDocument('a', DIMENSIONS, seededRandom(3)))
    const path = pack('pack', memory)
    expect(opened(path).memory.numDocuments).toBe(1)
    expect(() => openIndexFile(path, name)).toThrow('its file was made for an index of another name or another key')
  })
})

describe('a file of format 1', () => {
  it('is packed when it is opened', async () => {
    const { vectors, ...document } = syntheticDocument('old', DIMENSIONS, seededRandom(1))
    const header = { kind: 'header', format: 1, name: 'old', ...SPEC }
    const path = join(folder, 'old.idx')
    writeFileSync(path, Buffer.concat([MAGIC, encodeRecord(header), encodeRecord({ kind: 'put', document }, vectors)]))
    const store = new LocalMemoryStore(folder)
    expect(await (await store.open('old'))?.get('old')).toEqual(document)
    await store.close()
    const file = opened(path)
    expect(file.header).toMatchObject({ format: 2, segment: { numRows: document.chunks.length } })
    expect(file.tailAt).toBe(readFileSync(path).length)
    expect(file.memory.get('old')).toEqual(document)
    file.reader.close()
  })
})

describe('a file of a newer version', () => {
  const header = { kind: 'header', format: 2, name: 'new', ...SPEC }
  it.each([
    ['its first bytes', Buffer.from('MSRAGIX2'), []],
    ['the format in its header', MAGIC, [{ ...header, format: 3 }]],
    ['the kind of a record', MAGIC, [header, { kind: 'merge' }]],
  ])('is refused with what to do, by %s', async (_, magic, records) => {
    const path = join(folder, 'new.idx')
    writeFileSync(path, Buffer.concat([magic, ...records.map((record) => encodeRecord(record))]))
    const store = new LocalMemoryStore(folder)
    await expect(store.open('new')).rejects.toThrow(
      /^index new: .*newer version .*update miniserve, or delete the index/,
    )
    await store.close()
  })

  it.each(['null', '[]', '"text"', '{"kind": "header"', ''])('%j is no index file', async (content) => {
    writeFileSync(join(folder, 'json.idx'), content)
    const store = new LocalMemoryStore(folder)
    await expect(store.open('json')).rejects.toThrow(/^index json: .*restore its file, or delete the index/)
    await store.close()
  })

  it.each([null, [], 'text'])('a header %j is none', async (json) => {
    writeFileSync(join(folder, 'headless.idx'), Buffer.concat([MAGIC, encodeRecord(json)]))
    const store = new LocalMemoryStore(folder)
    await expect(store.open('headless')).rejects.toThrow(/^index headless: it has no header/)
    await store.close()
  })
})

describe('records after a segment', () => {
  it('are read on opening, and packed if there are many', async () => {
    const random = seededRandom(2)
    const memory = new MemoryIndex(DIMENSIONS)
    memory.put(syntheticDocument('a', DIMENSIONS, random))
    const path = pack('tail', memory)
    const index = new JournaledIndex(path, 'tail')
    const long = syntheticDocument('b', DIMENSIONS, random)
    const [first] = long.chunks
    if (!first) throw new Error('a synthetic document has chunks')
    const chunks = long.chunks.map((chunk) => ({ ...chunk, text: 'walnut '.repeat(100_000) }))
    await index.upsert([{ ...long, chunks }])
    await index.delete(['a'])
    const other = new JournaledIndex(path, 'tail')
    expect((await other.summaries()).map(({ id }) => id)).toEqual(['b'])
    await index.settle()
    expect((await index.get('b'))?.chunks).toEqual(chunks)
    // The other one sees that the file was replaced.
    expect(await other.info()).toMatchObject({ numDocuments: 1, bytes: (await index.info()).bytes })
    expect(opened(path).memory.numDocuments).toBe(1)
    index.close()
    other.close()
  })
})
