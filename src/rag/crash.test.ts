/** Ingestion that ends early: killed at any moment it loses at most the file in hand, and it goes on where it stopped. */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { writeBertFolder } from '../../test/rag/onnx-bert.ts'
import { createEmbedder, type Embedder } from './embedder.ts'
import { indexFiles } from './index-files.ts'
import { createModelThread, type ModelThread } from './models.ts'
import { LocalMemoryStore } from './stores/memory-local.ts'

const NUM_FILES = 30

let folder = ''
let thread: ModelThread
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
  thread = createModelThread()
  embedder = createEmbedder({ kind: 'folder', name: 'embedder', folder: path }, thread)
})
afterAll(async () => {
  await thread.close()
  rmSync(folder, { recursive: true })
})

/** Writes documents as ingestion does, in a process that can be killed. Sends the id of each once `upsert` has resolved. */
function startWriter(data: string): ChildProcess {
  return fork(new URL('../../test/rag/writer.mjs', import.meta.url), [data], {
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    env: { ...process.env, MINISERVE_TEST_TYPESCRIPT: '1' },
  })
}

describe('an ingestion that is killed', () => {
  it('keeps every document it had finished and opens again, time after time', async () => {
    const data = join(folder, 'killed')
    const finished = new Set<string>()
    for (let round = 0; round < 4; round++) {
      const writer = startWriter(data)
      let left = 5 + round * 7
      const enough = new Promise<void>((resolve) => {
        writer.on('message', (id) => {
          finished.add(String(id))
          if (--left === 0) resolve()
        })
      })
      await enough
      writer.kill('SIGKILL')
      await once(writer, 'exit')
      const store = new LocalMemoryStore(data)
      const index = await store.open('killed')
      const ids = new Set((await index?.summaries())?.map(({ id }) => id))
      expect([...finished].filter((id) => !ids.has(id))).toEqual([])
      // At most the one in hand is there without its message having arrived.
      expect(ids.size - finished.size).toBeLessThanOrEqual(2)
      for (const id of ids) finished.add(id)
      for (const id of ids) expect((await index?.get(id))?.chunks.length).toBeGreaterThan(0)
      await store.close()
    }
  })
})

describe('an ingestion that is interrupted', () => {
  it('goes on where it stopped', async () => {
    const store = new LocalMemoryStore(join(folder, 'resumed'))
    const { fingerprint, dimensions } = await embedder.load()
    const index = await store.openOrCreate('resumed', { model: fingerprint, dimensions })
    const controller = new AbortController()
    let done = 0
    const options = { index, embedder, workingFolder: folder }
    const stopped = indexFiles([join(folder, 'files')], {
      ...options,
      signal: controller.signal,
      onDocument: () => {
        if (++done === 8) controller.abort(new Error('stop here'))
      },
    })
    await expect(stopped).rejects.toThrow('stop here')
    const before = (await index.info()).numDocuments
    expect(before).toBeGreaterThanOrEqual(6)
    expect(before).toBeLessThan(NUM_FILES)
    const { unchanged, accepted } = await indexFiles([join(folder, 'files')], options)
    expect([unchanged, accepted]).toEqual([before, NUM_FILES])
    await store.close()
  })
})
