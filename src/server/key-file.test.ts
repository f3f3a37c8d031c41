import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { type FileKey, parseKeyFile } from './key-file.ts'
import { createKeys } from './keys.ts'
import { RateLimits } from './rate-limits.ts'

const sha256 = (key: string): string => createHash('sha256').update(key).digest('hex')
const file = (...keys: unknown[]): string => JSON.stringify({ keys })

describe('a key file', () => {
  it('names its keys, with roles and limits', () => {
    const keys = parseKeyFile(
      'keys.json',
      file(
        { name: 'alice', sha256: sha256('a'), limits: { requests_per_minute: 2, concurrency: 1 } },
        { name: 'ops', sha256: sha256('o').toUpperCase(), role: 'admin' },
      ),
    )
    expect(keys.map(({ name, isAdmin, limits }) => ({ name, isAdmin, ...limits }))).toEqual([
      { name: 'alice', isAdmin: false, requestsPerMinute: 2, tokensPerMinute: null, concurrency: 1 },
      { name: 'ops', isAdmin: true, requestsPerMinute: null, tokensPerMinute: null, concurrency: null },
    ])
  })

  it.each([
    ['{', /expected JSON/],
    ['{"keys": []}', /keys: expected at least one key/],
    [file({ name: 'a b', sha256: sha256('a') }), /keys\.0\.name: expected a name/],
    [file({ name: 'a', sha256: 'secret-key-itself' }), /keys\.0\.sha256: expected the SHA-256/],
    [file({ name: 'a', sha256: sha256('a'), role: 'root' }), /keys\.0\.role: expected user or admin$/],
    ['{}', /: keys: expected a list of keys$/],
    ['[]', /: the file: expected an object$/],
    [file({}), /keys\.0\.name: expected a name/],
    [file({ name: 'a', sha256: sha256('a'), limit: 1 }), /keys\.0: expected known fields, found limit$/],
    [
      file({ name: 'a', sha256: sha256('a'), limits: { concurrency: 'x' } }),
      /limits\.concurrency: expected a whole number of at least 1$/,
    ],
    [file({ name: 'a', sha256: sha256('a'), indexes: { n: 'all' } }), /indexes\.n: expected read or write$/],
    [file({ name: 'a', sha256: sha256('a'), indexes: { 'a b': 'read' } }), /expected the name of an index$/],
    [
      file({ name: 'a', sha256: sha256('a'), limits: { rpm: 1 } }),
      /keys\.0\.limits: expected known fields, found rpm$/,
    ],
    [
      file({ name: 'a', sha256: sha256('a') }, { name: 'a', sha256: sha256('b') }),
      /keys\.1\.name: expected a unique value, found that of another key/,
    ],
    [
      file({ name: 'a', sha256: sha256('a') }, { name: 'b', sha256: sha256('a') }),
      /keys\.1\.sha256: expected a unique value, found that of another key/,
    ],
  ])('%s is refused by name', (text, message) => {
    expect(() => parseKeyFile('keys.json', text)).toThrow(message)
    expect(() => parseKeyFile('keys.json', text)).not.toThrow(/secret-key-itself/)
  })

  it('changes who may call, without a restart', () => {
    let current: readonly FileKey[] = parseKeyFile('f', file({ name: 'alice', sha256: sha256('a') }))
    const keys = createKeys({ keys: [], adminKey: null, secret: Buffer.alloc(32, 1), fileKeys: () => current })
    expect(keys.authenticate(undefined, undefined)).toBeNull()
    expect(keys.authenticate('Bearer a', undefined)).toMatchObject({ keyId: 'alice', isAdmin: false })
    const session = keys.openSession('a', Date.now() + 60_000) ?? ''
    expect(keys.resumeSession(session)).toMatchObject({ keyId: 'alice' })
    const before = keys.authenticate('Bearer a', undefined)?.cacheSalt
    current = parseKeyFile('f', file({ name: 'bob', sha256: sha256('b'), role: 'admin' }))
    expect(keys.authenticate('Bearer a', undefined)).toBeNull()
    expect(keys.resumeSession(session)).toBeNull()
    expect(keys.authenticate(undefined, 'b')).toMatchObject({ keyId: 'bob', isAdmin: true })
    expect(keys.authenticate(undefined, 'b')?.cacheSalt).not.toBe(before)
  })
})

describe('limits of a key', () => {
  const none = { requestsPerMinute: null, tokensPerMinute: null, concurrency: null }
  const refused = (seconds: number) =>
    expect.objectContaining({
      code: 'rate_limit_exceeded',
      headers: expect.objectContaining({ 'Retry-After': String(seconds) }) as object,
    }) as Error

  it('fill steadily, say what is left, and refuse the rest', () => {
    let nowMs = 0
    const limits = new RateLimits(() => nowMs)
    const enter = () => limits.enter('alice', { ...none, requestsPerMinute: 2 })
    expect(enter().headers).toMatchObject({ 'x-ratelimit-limit-requests': '2', 'x-ratelimit-remaining-requests': '1' })
    expect(enter().headers).toMatchObject({
      'x-ratelimit-remaining-requests': '0',
      'x-ratelimit-reset-requests': '60.000s',
    })
    expect(enter).toThrow(refused(30))
    // Another key has its own.
    limits.enter('bob', { ...none, requestsPerMinute: 2 })
    nowMs += 30_000
    enter()
    expect(enter).toThrow(refused(30))
  })

  it('wait for tokens that were used beyond them', () => {
    let nowMs = 0
    const limits = new RateLimits(() => nowMs)
    const enter = () => limits.enter('alice', { ...none, tokensPerMinute: 600 })
    const first = enter()
    first.charge(1200)
    expect(enter).toThrow(refused(61))
    nowMs += 61_000
    enter()
  })

  it('count requests at the same time until each is over', () => {
    const limits = new RateLimits(() => 0)
    const enter = () => limits.enter('alice', { ...none, concurrency: 2 })
    const first = enter()
    enter()
    expect(enter).toThrow(refused(1))
    first.leave()
    first.leave()
    enter()
    expect(enter).toThrow(refused(1))
  })
})
