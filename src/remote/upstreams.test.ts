/** Which engine a request goes to, by the clock that the test holds. */
import { afterEach, describe, expect, it } from 'vitest'
import { type Lease, type Upstream, Upstreams } from './upstreams.ts'

const upstream = (base: string): Upstream => ({ base, headers: {}, model: 'tiny' })
const a = upstream('http://a')
const b = upstream('http://b')

const open: Upstreams[] = []
afterEach(() => {
  for (const pool of open.splice(0)) pool.close()
})

function setUp(upstreams: readonly Upstream[] = [a, b]) {
  const clock = { nowMs: 0 }
  const away = new Set<Upstream>()
  const pool = new Upstreams({
    upstreams,
    probe: async (one) => !away.has(one),
    probeEveryMs: 3_600_000,
    now: () => clock.nowMs,
  })
  open.push(pool)
  return { pool, clock, away }
}

const take = (pool: Upstreams, prompt = ''): Lease => {
  const lease = pool.lease(prompt, '')
  if (lease === null) return expect.unreachable('no upstream')
  return lease
}

/** Opens the circuit of the first upstream. */
function fail(pool: Upstreams, times: number): void {
  for (let i = 0; i < times; i++) take(pool).release('fault')
}

const long = (topic: string) => `${topic} `.repeat(400)

describe('the least loaded one', () => {
  it('gets the next request', () => {
    const { pool } = setUp()
    const leases = Array.from({ length: 6 }, (_, i) => take(pool, `prompt ${i}`))
    expect(leases.map((lease) => lease.upstream.base)).toEqual(['a', 'b', 'a', 'b', 'a', 'b'].map((x) => `http://${x}`))
    leases[1]?.release('ok')
    leases[1]?.release('ok')
    expect(pool.states().map(({ numRunning }) => numRunning)).toEqual([3, 2])
    expect(take(pool).upstream).toBe(b)
  })

  it('takes over a known prompt only when its engine is much busier', () => {
    const { pool } = setUp()
    take(pool, long('river'))
    const busy = Array.from({ length: 4 }, () => take(pool, long('river')))
    expect(new Set(busy.map((lease) => lease.upstream))).toEqual(new Set([a]))
    expect(take(pool, long('river')).upstream).toBe(b)
    // What it has computed now is known to be there.
    for (const lease of busy) lease.release('ok')
  })

  it('does not learn from one tenant where the prompts of another went', () => {
    const { pool } = setUp()
    const first = pool.lease(long('river'), 'tenant 1')
    expect(first?.upstream).toBe(a)
    expect(pool.lease(long('river'), 'tenant 1')?.upstream).toBe(a)
    expect(pool.lease(long('river'), 'tenant 2')?.upstream).toBe(b)
  })
})

describe('an engine that fails', () => {
  it('is left alone, then tried with one request, then for longer', () => {
    const { pool, clock } = setUp()
    fail(pool, 3)
    expect(take(pool).upstream).toBe(b)
    clock.nowMs = 4_999
    expect(take(pool).upstream).toBe(b)
    clock.nowMs = 5_000
    const trial = take(pool)
    expect(trial.upstream).toBe(a)
    // Not a second one beside it, though b is the busier.
    expect(take(pool).upstream).toBe(b)
    trial.release('fault')
    clock.nowMs = 14_999
    expect(take(pool).upstream).toBe(b)
    clock.nowMs = 15_000
    take(pool).release('ok')
    expect([take(pool).upstream, take(pool).upstream]).toEqual([a, a])
  })

  it('is left alone once for all the requests that it failed at once', () => {
    const { pool, clock } = setUp()
    const running = Array.from({ length: 24 }, () => take(pool))
    for (const lease of running.filter(({ upstream: on }) => on === a)) lease.release('fault')
    for (const lease of running.filter(({ upstream: on }) => on === b)) lease.release('ok')
    expect(take(pool).upstream).toBe(b)
    clock.nowMs = 5_000
    expect(take(pool).upstream).toBe(a)
  })

  it('is judged by answers and failures, not by calls that were ended from here', () => {
    const { pool, clock } = setUp()
    const cancelled = Array.from({ length: 4 }, () => take(pool)).filter(({ upstream: on }) => on === a)
    fail(pool, 2)
    cancelled[0]?.release('unknown')
    fail(pool, 1)
    expect(pool.states()[0]).toMatchObject({ isTaking: false })
    cancelled[1]?.release('unknown')
    expect(pool.states()[0]).toMatchObject({ isTaking: false, numRunning: 0 })
    clock.nowMs = 5_000
    take(pool).release('unknown')
    // Still one at a time, and at once.
    const trial = take(pool)
    expect([trial.upstream, take(pool).upstream]).toEqual([a, b])
    trial.release('fault')
    clock.nowMs = 14_999
    expect(pool.states()[0]).toMatchObject({ isTaking: false })
  })

  it('gets requests at once when a check finds it back', async () => {
    const { pool, away } = setUp()
    fail(pool, 3)
    away.add(a)
    await pool.probeAll()
    expect(take(pool).upstream).toBe(b)
    away.delete(a)
    await pool.probeAll()
    expect(take(pool).upstream).toBe(a)
  })

  it('is asked all the same where there is no other', async () => {
    const { pool, away } = setUp()
    away.add(a).add(b)
    await pool.probeAll()
    expect(take(pool).upstream).toBe(a)
    expect(pool.lease('', '', a)?.upstream).toBe(b)
    expect(setUp([a]).pool.lease('', '', a)).toBeNull()
  })
})

describe('an engine that is taken out of service', () => {
  it('keeps what it runs and gets nothing new', async () => {
    const { pool, away } = setUp()
    const running = take(pool, long('river'))
    away.add(running.upstream)
    await pool.probeAll()
    const next = Array.from({ length: 8 }, () => take(pool, long('river')))
    expect(new Set(next.map((lease) => lease.upstream))).toEqual(new Set([b]))
    expect(pool.states()[0]).toMatchObject({ isTaking: false, numRunning: 1 })
    running.release('ok')
    expect(pool.states()[0]).toMatchObject({ numRunning: 0 })
  })
})
