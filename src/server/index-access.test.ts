import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createKeys } from './keys.ts'
import { seededRandom, syntheticDocument } from '../../test/rag/documents.ts'
import { SERVER_ACCESS, type IndexAccess } from '../rag/access.ts'
import { IndexCatalog } from '../rag/index-catalog.ts'
import { LocalMemoryStore } from '../rag/stores/memory-local.ts'

const SPEC = { model: 'test@1', dimensions: 4 }
let folder = ''
let store: LocalMemoryStore
let server: IndexCatalog

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'miniserve-catalog-'))
  store = new LocalMemoryStore(folder)
  server = new IndexCatalog({ store, bundled: null, defaultIndex: 'docs' })
})
afterAll(async () => {
  await store.close()
  rmSync(folder, { recursive: true })
})

/** Access of `--api-key` keys, as the server gives it. */
const accessOf = (key: string, keys: readonly string[], adminKey: string | null = null): IndexAccess => {
  const known = createKeys({ keys, adminKey, secret: Buffer.alloc(32) })
  return known.authenticate(`Bearer ${key}`, undefined)?.indexes ?? SERVER_ACCESS
}
const fill = async (catalog: IndexCatalog, name: string): Promise<void> =>
  (await catalog.openForWriting(name, SPEC)).upsert([syntheticDocument('d', SPEC.dimensions, seededRandom(1))])

describe('keys without a key file', () => {
  it('own what they make, and search what is the server’s', async () => {
    await fill(server, 'shared')
    const [a, b] = ['a', 'b'].map((key) => server.as(accessOf(key, ['a', 'b'])))
    await fill(a ?? server, 'mine')
    expect(await a?.find('mine')).not.toBeNull()
    expect(await b?.find('mine')).toBeNull()
    expect(await server.find('mine')).toBeNull()
    expect((await b?.open('shared'))?.name).toBe('shared')
    await expect(b?.openForWriting('shared', SPEC)).rejects.toMatchObject({ code: 'invalid_request', param: 'index' })
    await expect(b?.openForChange('shared')).rejects.toMatchObject({ code: 'invalid_request' })
    await expect(b?.drop('shared')).rejects.toMatchObject({ code: 'invalid_request' })
    await expect(b?.drop('mine')).rejects.toMatchObject({ code: 'index_not_found' })
  })

  it('change the server’s indexes where there is one key only', async () => {
    const only = server.as(accessOf('a', ['a']))
    expect((await only.openForWriting('shared', SPEC)).name).toBe('shared')
    expect((await only.openForChange('shared')).name).toBe('shared')
    // What it makes is its own all the same: another key may come.
    expect((await only.openForWriting('new', SPEC)).name).not.toBe('new')
  })

  it('leave the server’s names to callers without a key, and every index to the admin', async () => {
    const admin = server.as(accessOf('root', ['a', 'b'], 'root'))
    expect((await admin.open('mine')).name).toMatch(/^[0-9a-f]{12}:mine$/)
    await expect(admin.openForWriting('nobody:mine', SPEC)).rejects.toMatchObject({ code: 'index_not_found' })
    expect((await server.list()).map(({ name, owner }) => [name, owner])).toEqual([['shared', null]])
    expect((await admin.list()).map(({ name }) => name)).toEqual(expect.arrayContaining(['shared', 'mine']))
    await admin.drop('mine')
    expect(await server.as(accessOf('a', ['a', 'b'])).find('mine')).toBeNull()
  })
})

it('an index shadowed by the caller’s own is listed once', async () => {
  const access: IndexAccess = { tenant: '..', isAdmin: false, sharedAccess: () => 'read' }
  const own = server.as(access)
  await store.openOrCreate('..:shared', SPEC)
  expect((await own.list()).filter(({ name }) => name === 'shared')).toMatchObject([{ owner: '..' }])
  expect(await store.names()).toContain('..:shared')
})

it.each(['../x', 'a/b', '', ':x', 'a:', 'a:b:c', '.idx'])('%j is no name of an index', async (name) => {
  expect(await server.find(name)).toBeNull()
  expect(() => server.checkedName(name)).toThrow('index: expected up to 64')
})
