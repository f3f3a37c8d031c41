/** Ingestion that ends early: killed at any moment it loses at most the file in hand, and it goes on where it stopped. */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { seededRandom } from '../../test/rag/documents.ts'
import { writeBertFolder } from '../../test/rag/onnx-bert.ts'
import type { Embedder } from './embedder.ts'
import { findFiles } from './files.ts'
import { indexFiles } from './index-files.ts'
import { createModelWorkers } from './model-workers.ts'
import { LocalMemoryStore } from './stores/memory-local.ts'

const NUM_FILES = 30

let folder = ''
let models: ReturnType<typeof createModelWorkers>
let embedder: Embedder
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'miniserve-crash-'))
  const files = join(folder, 'files')
  mkdirSync(files)
  const words = ['fox', 'walnut', 'bread', 'oven', 'garden', 'the', 'a']
  for (let i = 0; i < NUM_FILES; i++) {
    const sentences = Array.from(
      { length: 30 },
      (_, j) => `The ${words[(i + j) % words.length]} number ${i} stands in garden ${j}.`,
    )
    writeFileSync(join(files, `${String(i).padStart(3, '0')}.md`), `# File ${i}\n\n${sentences.join(' ')}\n`)
  }
  const path = writeBertFolder(folder, 'embedder', { words })
  models = createModelWorkers()
  embedder = models.embedder({ kind: 'folder', name: 'embedder', folder: path })
})
afterAll(async () => {
  await models.close()
  rmSync(folder, { recursive: true })
})

const isFull = process.env['MINISERVE_TEST_LEVEL'] === 'full'
/** Kills of each kind. The seed is in the name of a failure. */
const NUM_ROUNDS = isFull ? 30 : 2
const SEED = isFull ? Date.now() % 1_000_000 : 7

/** Writes documents as ingestion does, in a process that can be killed. Sends each once `upsert` has resolved. */
function startWriter(data: string, numIds: number, dimensions: number): ChildProcess {
  return fork(new URL('../../test/rag/writer.mjs', import.meta.url), [data, String(numIds), String(dimensions)], {
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    env: { ...process.env, MINISERVE_TEST_TYPESCRIPT: '1' },
  })
}

describe(`an ingestion that is killed (seed ${SEED})`, () => {
  it.each([
    ['adds documents', 1_000_000, 64],
    // Four documents of 160 KB: the file is rewritten every few dozen of their versions.
    ['replaces documents', 4, 2048],
  ])(
    'keeps every finished document and can be opened again, each time: %s',
    async (what, numIds, dimensions) => {
      const random = seededRandom(SEED)
      const data = join(folder, what)
      /** The version of each document that is known to be stored. */
      const stored = new Map<string, number>()
      for (let round = 0; round < NUM_ROUNDS; round++) {
        const writer = startWriter(data, numIds, dimensions)
        let left = 1 + Math.floor(random() * 60)
        const enough = new Promise<void>((resolve) => {
          writer.on('message', (message: { id: string; version: number }) => {
            stored.set(message.id, message.version)
            if (--left === 0) resolve()
          })
        })
        await enough
        writer.kill('SIGKILL')
        await once(writer, 'exit')
        const store = new LocalMemoryStore(data)
        const index = await store.open('killed')
        const found = new Map((await index?.summaries())?.map(({ id, contentHash }) => [id, Number(contentHash)]))
        for (const [id, version] of stored) expect([id, (found.get(id) ?? -1) >= version]).toEqual([id, true])
        // At most the one in hand, and one whose message did not arrive, are there besides.
        const newest = Math.max(...stored.values())
        const besides = [...found.values()].filter((version) => version > newest)
        expect(besides.length).toBeLessThanOrEqual(2)
        for (const [id, version] of found) {
          const document = await index?.get(id)
          expect(document?.chunks.map(({ text }) => text)).toEqual(
            Array.from({ length: 20 }, (_, chunk) => `chunk ${chunk} of ${version}`),
          )
          stored.set(id, version)
        }
        await store.close()
      }
    },
    20_000 * NUM_ROUNDS,
  )
})

describe('an ingestion that is interrupted', () => {
  it('continues where it stopped', async () => {
    const store = new LocalMemoryStore(join(folder, 'resumed'))
    const { fingerprint, dimensions } = await embedder.load()
    const index = await store.openOrCreate('resumed', { model: fingerprint, dimensions })
    const controller = new AbortController()
    let done = 0
    const options = { index, embedder }
    const files = await findFiles([join(folder, 'files')])
    const stopped = indexFiles(files, {
      ...options,
      signal: controller.signal,
      onAccepted: () => {
        if (++done === 8) controller.abort(new Error('stop here'))
      },
    })
    await expect(stopped).rejects.toThrow('stop here')
    const before = (await index.info()).numDocuments
    expect(before).toBeGreaterThanOrEqual(6)
    expect(before).toBeLessThan(NUM_FILES)
    const { unchanged, accepted } = await indexFiles(files, options)
    expect([unchanged, accepted]).toEqual([before, NUM_FILES])
    await store.close()
  })
})
