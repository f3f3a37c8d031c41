import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { seededRandom, syntheticDocument } from '../../../test/rag/documents.ts'
import { RagError } from '../errors.ts'
import type { EmbeddedDocument } from '../vector-index.ts'
import { withFileLock } from './file-lock.ts'
import { JournalReader } from './journal.ts'
import { JournaledIndex } from './journaled-index.ts'
import { LocalMemoryStore } from './memory-local.ts'

const SPEC = { model: 'test-embedder', dimensions: 4 }

let folder = ''
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'miniserve-journal-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

/** Documents in a journal by its records alone: opening an index costs milliseconds, and there are thousands of files to try. */
function idsInRecords(path: string): string[] {
  const reader = new JournalReader(path)
  try {
    return [...reader.read()]
      .slice(1)
      .map(({ json }) => z.object({ document: z.object({ id: z.string() }) }).parse(json).document.id)
  } finally {
    reader.close()
  }
}

const idsIn = async (path: string): Promise<string[]> => {
  const index = new JournaledIndex(path, 'notes')
  const ids = (await index.summaries()).map(({ id }) => id)
  index.close()
  return ids
}

/** A document whose record is short: every byte of it is tried. */
function small(id: string, random: () => number): EmbeddedDocument {
  const chunks = [{ chunk: 0, text: id, headings: [], start: 0, end: 2, numTokens: 1 }]
  const vectors = Float32Array.from({ length: 4 }, random)
  return { id, source: id, contentHash: id, origin: '', metadata: {}, chunks, vectors }
}

const isFull = process.env['MINISERVE_TEST_LEVEL'] === 'full'

/** The bytes of a file at which cuts and damage are tried: all at the full level, else one in seven and those beside the ends of records. */
const placesIn = (numBytes: number, ends: readonly number[]): readonly number[] =>
  Array.from({ length: numBytes }, (_, at) => at).filter(
    (at) => isFull || at % 7 === 0 || ends.some((end) => Math.abs(at - end) < 4),
  )

describe('the journal of an index', () => {
  async function threeDocuments(): Promise<{ path: string; ends: number[] }> {
    const random = seededRandom(3)
    const store = new LocalMemoryStore(folder)
    const index = await store.openOrCreate('notes', SPEC)
    const ends = [statSync(index.path).size]
    for (let i = 0; i < 3; i++) {
      await index.upsert([small(`d${i}`, random)])
      ends.push(statSync(index.path).size)
    }
    await store.close()
    return { path: index.path, ends }
  }

  it('cut off at any byte, opens with the whole documents before it, and can be continued', async () => {
    const { path, ends } = await threeDocuments()
    const headerEnd = ends[0] ?? 0
    const good = readFileSync(path)
    const torn = join(folder, 'torn.idx')
    const places = placesIn(good.length, ends).filter((place) => place >= headerEnd)
    for (const [i, size] of places.entries()) {
      writeFileSync(torn, good.subarray(0, size))
      const whole = ends.filter((end) => end <= size).length - 1
      const expected = Array.from({ length: whole }, (_, i) => `d${i}`)
      expect(idsInRecords(torn)).toEqual(expected)
      if (i % 20 === 0) {
        const index = new JournaledIndex(torn, 'notes')
        await index.upsert([syntheticDocument('after', 4, seededRandom(size))])
        index.close()
        expect(await idsIn(torn)).toEqual([...expected, 'after'])
      }
    }
    // Before the header is whole there is no such file: it is made under another name first.
    writeFileSync(torn, good.subarray(0, headerEnd - 1))
    await expect(idsIn(torn)).rejects.toMatchObject({ code: 'index_corrupt' })
  })

  it('damaged at any byte, is refused by name or loses its last record, and never returns anything else', async () => {
    const { path, ends } = await threeDocuments()
    const good = readFileSync(path)
    const lastRecord = ends[2] ?? Infinity
    const damaged = join(folder, 'damaged.idx')
    const all = ['d0', 'd1', 'd2']
    let refused = 0
    const places = placesIn(good.length, ends)
    for (const at of places) {
      const bytes = Buffer.from(good)
      bytes[at] = (bytes[at] ?? 0) ^ 0x10
      writeFileSync(damaged, bytes)
      try {
        expect(idsInRecords(damaged)).toEqual(all.slice(0, 2))
        expect(at).toBeGreaterThan(lastRecord)
      } catch (error) {
        if (!(error instanceof RagError)) throw error
        expect(error).toMatchObject({ code: 'index_corrupt' })
        expect(error.message).toContain('damaged')
        refused++
      }
    }
    expect(refused).toBeGreaterThan(places.length / 2)
  })

  it('treats zeros at the end, as a power failure leaves them, as a torn record', async () => {
    const { path } = await threeDocuments()
    appendFileSync(path, Buffer.alloc(5000))
    expect(await idsIn(path)).toHaveLength(3)
  })

  it('is rewritten with the same content when most of it is dead', async () => {
    const random = seededRandom(9)
    const store = new LocalMemoryStore(folder)
    const index = await store.openOrCreate('notes', { model: 'm', dimensions: 512 })
    const reader = new JournaledIndex(index.path, index.name)
    for (let round = 0; round < 12; round++) {
      await index.upsert(Array.from({ length: 100 }, (_, i) => syntheticDocument(`d${i}`, 512, random)))
    }
    await index.delete(['d7', 'none'])
    const { bytes, numChunks } = await index.info()
    expect(bytes).toBeLessThan(numChunks * 512 * 4 * 3)
    expect(await reader.summaries()).toEqual(await index.summaries())
    expect(await idsIn(index.path)).toHaveLength(99)
    const query = { vector: syntheticDocument('q', 512, random).vectors.slice(0, 512), text: 'part', depth: 20 }
    const reopened = new JournaledIndex(index.path, index.name)
    const sort = (found: Awaited<ReturnType<JournaledIndex['search']>>) =>
      found.map((hit) => `${hit.documentId}#${hit.chunk} ${hit.similarity.toFixed(6)}`).sort()
    const byVector = { ...query, text: '' }
    expect(sort(await reopened.search(byVector))).toEqual(sort(await index.search(byVector)))
    for (const open of [reader, reopened]) open.close()
    await store.close()
  })

  it('shows what another store wrote, and an index that was dropped and made anew', async () => {
    const writer = new LocalMemoryStore(folder)
    const reader = new LocalMemoryStore(folder)
    expect(await reader.open('notes')).toBeNull()
    const index = await writer.openOrCreate('notes', SPEC)
    await index.upsert([syntheticDocument('a', 4, seededRandom(1))])
    const seen = await reader.open('notes')
    expect(await seen?.get('a')).toMatchObject({ id: 'a' })
    await Promise.all([
      index.upsert([syntheticDocument('b', 4, seededRandom(2))]),
      seen?.upsert([syntheticDocument('c', 4, seededRandom(3))]),
    ])
    expect((await index.info()).numDocuments).toBe(3)
    expect((await seen?.info())?.numDocuments).toBe(3)
    expect(await writer.drop('notes')).toBe(true)
    expect(await reader.open('notes')).toBeNull()
    const again = await writer.openOrCreate('notes', { model: 'other', dimensions: 8 })
    expect(again.dimensions).toBe(8)
    await expect(reader.openOrCreate('notes', SPEC)).rejects.toMatchObject({
      code: 'index_model_mismatch',
      param: 'index',
    })
    await Promise.all([writer.close(), reader.close()])
  })

  it('takes over the lock of a process that is gone', async () => {
    const store = new LocalMemoryStore(folder)
    const index = await store.openOrCreate('notes', SPEC)
    const gone = spawn(process.execPath, ['-e', ''])
    await once(gone, 'exit')
    writeFileSync(`${index.path}.lock`, `${gone.pid}\n${hostname()}\n`)
    await index.upsert([syntheticDocument('a', 4, seededRandom(1))])
    expect(existsSync(`${index.path}.lock`)).toBe(false)
    await store.close()
  })

  it('takes over a lock that nobody touches, even if another process has its process id now', async () => {
    const store = new LocalMemoryStore(folder)
    const index = await store.openOrCreate('notes', SPEC)
    const other = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'])
    try {
      writeFileSync(`${index.path}.lock`, `${other.pid}\n${hostname()}\n`)
      const longAgo = new Date(Date.now() - 60_000)
      utimesSync(`${index.path}.lock`, longAgo, longAgo)
      await index.upsert([syntheticDocument('a', 4, seededRandom(1))])
      expect((await index.info()).numDocuments).toBe(1)
    } finally {
      other.kill()
      await store.close()
    }
  })

  it.each([
    ['waits for a lock that another machine, whose clock is ahead, has touched', 'elsewhere', 3_600_000, false],
    ['takes one that another machine has not touched for long', 'elsewhere', -60_000, true],
    ["takes one of this machine's from before its clock was set back", hostname(), 3_600_000, true],
  ])('%s', async (_, host, aheadMs, isTaken) => {
    const path = join(folder, 'clock.lock')
    writeFileSync(path, `${process.pid}\n${host}\n`)
    const touched = new Date(Date.now() + aheadMs)
    utimesSync(path, touched, touched)
    const work = withFileLock(path, () => 'done', 50)
    if (isTaken) await expect(work).resolves.toBe('done')
    else await expect(work).rejects.toMatchObject({ code: 'store_unavailable' })
    expect(existsSync(path)).toBe(!isTaken)
  })

  it('writes nothing once another writer has taken over', async () => {
    const path = join(folder, 'x.lock')
    const work = withFileLock(path, (lock) => {
      writeFileSync(path, '1\nelsewhere\nanother-token\n')
      lock.assertHeld()
    })
    await expect(work).rejects.toMatchObject({
      code: 'store_unavailable',
      message: expect.stringContaining('took over'),
    })
    expect(readFileSync(path, 'utf8')).toContain('another-token')
  })
})

describe('a store of many indexes', () => {
  it('keeps the most recently used ones in memory, and reloads the others', async () => {
    const store = new LocalMemoryStore(folder, { maxLoaded: 3, idleMs: 60_000 })
    const random = seededRandom(3)
    for (let i = 0; i < 10; i++) {
      const index = await store.openOrCreate(`i${i}`, SPEC)
      await index.upsert([syntheticDocument(`d${i}`, 4, random)])
    }
    expect(store.numLoaded).toBe(3)
    const names = await store.names()
    expect(names).toEqual(Array.from({ length: 10 }, (_, i) => `i${i}`))
    for (const name of names) expect(await (await store.open(name))?.info()).toMatchObject({ name, numDocuments: 1 })
    expect(store.numLoaded).toBe(3)
    expect((await (await store.open('i0'))?.get('d0'))?.id).toBe('d0')
    store.unloadIdle(performance.now() + 120_000)
    expect(store.numLoaded).toBe(0)
    expect((await (await store.open('i5'))?.info())?.numChunks).toBeGreaterThan(0)
    await store.close()
  })
})
