import { mkdir, mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createByteTokenizer } from '../../../test/engine/byte-tokenizer.ts'
import { collect, request } from '../../../test/engine/requests.ts'
import { ScriptedRunner } from '../../../test/engine/scripted-runner.ts'
import { createEngine } from '../engine.ts'
import type { EngineEvent } from '../events.ts'
import { openKvTiers } from './kv-tiers.ts'
import type { KvTiersOptions } from './kv-tiers.ts'

let directory = ''
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'miniserve-kv-'))
})
afterEach(() => rm(directory, { recursive: true, force: true }))

const logged: string[] = []
const options = (fields: Partial<KvTiersOptions> = {}): KvTiersOptions => ({
  hostMemoryBytes: 0,
  directory: null,
  maxDiskBytes: 1 << 20,
  fingerprint: 'model',
  blockSize: 4,
  blockBytes: 16,
  onLog: (message, { reason }) => logged.push(`${message} ${String(reason)}`),
  ...fields,
})

const name = (i: number) => String(i).padStart(43, 'x')
const block = (i: number) => ({
  hash: name(i),
  parent: name(i + 1),
  tokens: Int32Array.of(i, 2, 3, 4),
  bytes: Uint8Array.from({ length: 16 }, (_, j) => i + j),
})

async function open(fields: Partial<KvTiersOptions>) {
  const tiers = await openKvTiers(options(fields))
  if (tiers === null) throw new Error('no tier')
  return tiers
}

const folderOf = async () => join(directory, (await readdir(directory))[0] ?? '')

describe('the tiers', () => {
  it('are off without memory and directory', async () => {
    expect(await openKvTiers(options())).toBeNull()
  })

  it('bound host memory, least recently used out first', async () => {
    const tiers = await open({ hostMemoryBytes: 3 * 16 })
    for (const i of [1, 2, 3]) tiers.put(block(i))
    tiers.getFromHost(name(1), name(2), block(1).tokens)
    tiers.put(block(4))
    expect([1, 2, 3, 4].map((i) => tiers.has(name(i)))).toEqual([true, false, true, true])
    expect(tiers.getFromHost(name(1), name(2), block(1).tokens)).toEqual(block(1).bytes)
    expect(tiers.getFromHost(name(1), name(2), Int32Array.of(9, 2, 3, 4))).toBeNull()
    expect(tiers.getFromHost(name(1), name(9), block(1).tokens)).toBeNull()
    await tiers.close()
  })

  it('keep files for the next process, for the owner alone, within their bound', async () => {
    const first = await open({ directory, maxDiskBytes: 700 })
    for (const i of [1, 2, 3, 4]) first.put(block(i))
    await first.close()
    const folder = await folderOf()
    const files = await readdir(folder)
    for (const file of files) expect((await stat(join(folder, file))).mode & 0o777).toBe(0o600)
    expect(files.length).toBeLessThan(4)
    const second = await open({ directory, maxDiskBytes: 700 })
    expect([1, 2, 3, 4].filter((i) => second.has(name(i)))).toHaveLength(files.length)
    expect(await second.getFromDisk(name(4), name(5), block(4).tokens)).toEqual(block(4).bytes)
    const other = await open({ directory, fingerprint: 'another model' })
    expect(other.has(name(4))).toBe(false)
    await Promise.all([second.close(), other.close()])
  })

  it('leave nothing behind of a write that fails, and take only files for blocks', async () => {
    const first = await open({ directory })
    await mkdir(join(await folderOf(), `${name(1)}.kv`))
    expect(await first.put(block(1))).toMatch(/^E/)
    await first.close()
    expect(await readdir(await folderOf())).toEqual([`${name(1)}.kv`])
    const second = await open({ directory })
    expect(second.has(name(1))).toBe(false)
    await second.close()
  })

  it('leave a damaged or foreign file aside with a log line', async () => {
    const first = await open({ directory })
    for (const i of [1, 2, 3]) first.put(block(i))
    await first.close()
    const folder = await folderOf()
    const content = await readFile(join(folder, `${name(1)}.kv`))
    content[content.length - 1] = (content.at(-1) ?? 0) ^ 1
    await writeFile(join(folder, `${name(1)}.kv`), content)
    await writeFile(join(folder, `${name(2)}.kv`), 'short')
    await writeFile(
      join(folder, `${name(3)}.kv`),
      await readFile(join(folder, `${name(3)}.kv`)).then((file) => file.fill(0x20, 0, 5)),
    )
    await writeFile(join(folder, 'notes.txt'), 'not ours')
    await writeFile(join(folder, `${name(9)}.kv.tmp`), 'cut off')
    await utimes(join(folder, `${name(9)}.kv.tmp`), 0, 0)
    await writeFile(join(folder, `${name(8)}.kv.tmp`), 'being written by another process')
    logged.length = 0
    const second = await open({ directory })
    for (const i of [1, 2, 3]) expect(await second.getFromDisk(name(i), name(i + 1), block(i).tokens)).toBeNull()
    await second.close()
    expect(logged).toEqual([
      expect.stringContaining('checksum differs'),
      expect.stringContaining('expected'),
      expect.stringContaining('another kind'),
    ])
    expect((await readdir(folder)).sort()).toEqual(['notes.txt', `${name(8)}.kv.tmp`])
  })
})

describe('an engine with tiers', () => {
  const prompt = 'a long prefix that everybody shares, '.repeat(3)

  async function start(fields: Partial<KvTiersOptions>, numBlocks = 64) {
    const runner = new ScriptedRunner({
      numBlocks,
      blockSize: 4,
      vocabSize: 259,
      maxNumBatchedTokens: 32,
      isDeferred: true,
    })
    const { fingerprint, blockBytes } = runner.modelInfo
    const engine = createEngine({
      runner,
      modelInfo: runner.modelInfo,
      tokenizer: createByteTokenizer(),
      chatTemplate: null,
      kvTiers: await openKvTiers(options({ fingerprint, blockBytes, ...fields })),
      options: {
        modelName: 'scripted',
        maxNumSeqs: 4,
        prefixCaching: true,
        runAhead: 1,
        speculation: false,
        maxQueuedRequests: 64,
        maxQueuedTokens: 4096,
      },
    })
    const events: EngineEvent[] = []
    engine.subscribe({ name: 'test', onEvent: (event) => events.push(event) })
    return { engine, events, runner }
  }

  const kvOf = (events: readonly EngineEvent[]) =>
    events.filter((event) => event.type === 'kvSubmitted' || event.type === 'kvDone')
  const counted = (result: Awaited<ReturnType<typeof collect>>) => {
    const last = result.events.at(-1)
    return last?.type === 'finished' ? last.counters : null
  }

  it('serves an evicted prefix from host memory with the same tokens', async () => {
    const { engine, events } = await start({ hostMemoryBytes: 1 << 16 }, 40)
    const cold = await collect(engine, request({ prompts: [{ text: prompt }] }))
    await collect(engine, request({ prompts: [{ text: 'something else that fills the whole pool. '.repeat(3) }] }))
    events.length = 0
    const warm = await collect(engine, request({ prompts: [{ text: prompt }] }))
    expect(warm.tokenIds).toEqual(cold.tokenIds)
    expect(counted(warm)?.numCachedTokens).toBeGreaterThan(100)
    expect(
      kvOf(events)
        .map((event) => `${event.type} ${event.operation}`)
        .slice(0, 4),
    ).toEqual(['kvSubmitted lookup', 'kvDone lookup', 'kvSubmitted retrieve', 'kvDone retrieve'])
    await engine.close()
    expect(engine.stats().numFreeBlocks).toBe(40)
  })

  it('serves it from disk after a restart, every operation counted before it starts and ended', async () => {
    const first = await start({ directory })
    const cold = await collect(first.engine, request({ prompts: [{ text: prompt }] }))
    await first.engine.close()
    const second = await start({ directory })
    const warm = await collect(second.engine, request({ prompts: [{ text: prompt }] }))
    await second.engine.close()
    expect(warm.tokenIds).toEqual(cold.tokenIds)
    expect(counted(warm)?.numCachedTokens).toBeGreaterThan(100)
    const kv = kvOf([...second.events])
    expect(kv.filter((event) => event.operation === 'disk_read')).toHaveLength(2)
    const open = new Set<number>()
    for (const event of kv) {
      if (event.type === 'kvSubmitted') open.add(event.operationId)
      else expect(open.delete(event.operationId)).toBe(true)
    }
    expect(open.size).toBe(0)
    const stored = kvOf(first.events).findLast((event) => event.type === 'kvDone')
    expect(stored).toMatchObject({ operation: 'store', ok: true })
    const salted = await start({ directory })
    expect(
      counted(await collect(salted.engine, request({ prompts: [{ text: prompt }], cacheSalt: 'another tenant' })))
        ?.numCachedTokens,
    ).toBe(0)
    await salted.engine.close()
  })

  it('keeps nothing of a pool that was lost, and serves nothing of it', async () => {
    const { engine, events, runner } = await start({ directory, hostMemoryBytes: 1 << 16 })
    const cold = await collect(engine, request({ prompts: [{ text: prompt }] }))
    // Replaced without a failed step: the next one tells, and what it was planned on is computed again.
    runner.losePool()
    const hit = await collect(engine, request({ prompts: [{ text: prompt }] }))
    expect(hit.tokenIds).toEqual(cold.tokenIds)
    expect(engine.stats().numPreemptions).toBeGreaterThan(0)
    const again = await collect(engine, request({ prompts: [{ text: prompt }] }))
    expect(again.tokenIds).toEqual(cold.tokenIds)
    // Lost when its last token is there and its blocks are about to be read.
    events.length = 0
    const stream = engine.submit(
      request({ prompts: [{ text: 'another prompt of some length' }] }),
      new AbortController().signal,
    )
    for await (const event of stream) if (event.type === 'finished') runner.losePool()
    await engine.close()
    const stored = kvOf(events).filter((event) => event.type === 'kvDone' && event.operation === 'store')
    expect(stored.length).toBeGreaterThan(0)
    const second = await start({ directory })
    const fresh = await collect(second.engine, request({ prompts: [{ text: 'another prompt of some length' }] }))
    const { engine: plain } = await start({ hostMemoryBytes: 1 << 16 })
    const expected = await collect(plain, request({ prompts: [{ text: 'another prompt of some length' }] }))
    expect(fresh.tokenIds).toEqual(expected.tokenIds)
    await Promise.all([second.engine.close(), plain.close()])
  })

  it('says what was not written, and why', async () => {
    const { engine, events } = await start({ directory })
    const folder = await folderOf()
    await rm(folder, { recursive: true })
    await writeFile(folder, 'a file where the folder was')
    await collect(engine, request({ prompts: [{ text: prompt }] }))
    await engine.close()
    const done = kvOf(events).find((event) => event.type === 'kvDone' && event.operation === 'store')
    expect(done).toMatchObject({ ok: false, errorType: 'ENOTDIR', numBlocks: 0, bytes: 0 })
    expect(engine.stats().kvOperations).toContainEqual({ operation: 'store', outcome: 'error', count: 1, bytes: 0 })
  })

  it('computes what a damaged file does not give', async () => {
    const first = await start({ directory })
    const cold = await collect(first.engine, request({ prompts: [{ text: prompt }] }))
    await first.engine.close()
    const folder = await folderOf()
    for (const file of await readdir(folder)) await writeFile(join(folder, file), 'damaged')
    const second = await start({ directory })
    const again = await collect(second.engine, request({ prompts: [{ text: prompt }] }))
    expect(again.tokenIds).toEqual(cold.tokenIds)
    expect(counted(again)?.numCachedTokens).toBe(0)
    await second.engine.close()
    const failed = kvOf(second.events).filter((event) => event.type === 'kvDone' && event.operation !== 'lookup')
    expect(failed.slice(0, 2)).toMatchObject([
      { operation: 'disk_read', ok: false, numBlocks: 0, bytes: 0, errorType: 'incomplete' },
      { operation: 'retrieve', ok: false, numBlocks: 0, bytes: 0, errorType: 'incomplete' },
    ])
    expect(second.engine.stats().numFreeBlocks).toBe(64)
  })
})
