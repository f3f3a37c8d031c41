import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, it, vi } from 'vitest'
import type { EchoWorkerApi } from '../../test/rag/echo-worker.ts'
import { processWorker, threadWorker, type StartWorker } from './worker-host.ts'
import { WorkerClient, type WorkerClientOptions } from './worker-rpc.ts'

const URL_OF_WORKER = new URL('../../test/rag/echo-worker.ts', import.meta.url)

const opened: WorkerClient<EchoWorkerApi>[] = []
function open(start: StartWorker, options: Partial<WorkerClientOptions> = {}): WorkerClient<EchoWorkerApi> {
  const client = new WorkerClient<EchoWorkerApi>(start, {
    name: 'the worker',
    concurrency: 1,
    maxWaiting: 10,
    failureCode: 'model_unavailable',
    drainOnClose: false,
    ...options,
  })
  opened.push(client)
  return client
}
afterEach(() => Promise.all(opened.splice(0).map((client) => client.close())))

/** Gone, or only waiting for its parent to ask how it ended: not every first process of a container does so at once. */
function hasEnded(pid: number): boolean {
  const stat = `/proc/${pid}/stat`
  if (existsSync('/proc/self/stat')) return !existsSync(stat) || readFileSync(stat, 'latin1').includes(') Z ')
  try {
    process.kill(pid, 0)
    return false
  } catch {
    return true
  }
}

describe.each([
  ['a thread', threadWorker(URL_OF_WORKER)],
  ['a process', processWorker(URL_OF_WORKER)],
])('a worker in %s', (_, start) => {
  it('returns values and arrays, and rethrows errors', async () => {
    const client = open(start)
    const [values, refused] = await Promise.all([
      client.call('double', Float32Array.of(1, 2.5, -3)),
      client.call('refuse', null).catch((error: unknown) => error),
    ])
    expect(values).toEqual(Float32Array.of(2, 5, -6))
    expect(refused).toMatchObject({ code: 'invalid_request', message: 'field: not this', param: 'field' })
  })

  it('reports its death to callers and the reason only to the log; the next call starts another', async () => {
    const client = open(start)
    const [exited, waiting] = await Promise.allSettled([
      client.call('exit', { code: 3, lastWords: 'at /secret/path' }),
      client.call('pid', null),
    ])
    const ended = { code: 'model_unavailable', message: 'the worker ended with code 3' }
    expect([exited, waiting]).toMatchObject([{ reason: ended }, { reason: ended }])
    expect(exited).toMatchObject({ reason: { cause: { message: expect.stringContaining('/secret/path') } } })
    const thrown: unknown = await client.call('throwLater', { lastWords: 'no /secret/path' }).catch((e: unknown) => e)
    expect(thrown).toMatchObject({
      code: 'model_unavailable',
      message: expect.stringMatching(/^the worker (failed|ended with code 1)$/),
      cause: { message: expect.stringContaining('/secret/path') },
    })
    expect(await client.call('double', Float32Array.of(4))).toEqual(Float32Array.of(8))
  })

  it('takes its running call along when it dies; the next worker serves the waiting calls', async () => {
    const client = open(start)
    await client.call('refuse', null).catch(() => {})
    const calls = [
      client.call('exit', { code: 3, lastWords: '' }),
      client.call('double', Float32Array.of(1)),
      client.call('exit', { code: 4, lastWords: '' }),
      client.call('double', Float32Array.of(2)),
    ]
    expect(await Promise.allSettled(calls)).toMatchObject([
      { reason: { message: 'the worker ended with code 3' } },
      { value: Float32Array.of(2) },
      { reason: { message: 'the worker ended with code 4' } },
      { value: Float32Array.of(4) },
    ])
  })

  it('is ended if a call takes too long; the next worker serves the waiting calls', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    try {
      const client = open(start, { maxCallMs: 1000 })
      const calls = [client.call('wait', null), client.call('double', Float32Array.of(1))]
      vi.advanceTimersByTime(1000)
      expect(await Promise.allSettled(calls)).toMatchObject([
        { reason: { code: 'model_unavailable', message: 'the worker took longer than 1000 ms' } },
        { value: Float32Array.of(2) },
      ])
      expect(vi.getTimerCount()).toBe(0)
    } finally {
      vi.useRealTimers()
    }
  })

  it('accepts no more calls than may wait', async () => {
    const client = open(start, { maxWaiting: 1 })
    const running = client.call('pid', null)
    const waiting = client.call('pid', null)
    await expect(client.call('pid', null)).rejects.toMatchObject({ code: 'overloaded' })
    await Promise.all([running, waiting])
  })

  it('rejects running and waiting calls when it is closed', async () => {
    const client = open(start)
    await client.call('pid', null)
    const calls = Promise.allSettled([client.call('wait', null), client.call('pid', null)])
    await client.close()
    const closed = { reason: { code: 'model_unavailable', message: 'the worker was closed' } }
    expect(await calls).toMatchObject([closed, closed])
    await expect(client.call('pid', null)).rejects.toThrow('the worker is closed')
  })
})

describe('a worker in a process', () => {
  it('has its own process, which ends when it is closed', async () => {
    const client = open(processWorker(URL_OF_WORKER))
    const pid = await client.call('pid', null)
    expect(pid).not.toBe(process.pid)
    expect(hasEnded(pid)).toBe(false)
    await client.close()
    expect(hasEnded(pid)).toBe(true)
  })

  it('fails only its own calls when it is killed during one', async () => {
    const client = open(processWorker(URL_OF_WORKER))
    const pid = await client.call('pid', null)
    const running = client.call('wait', null)
    process.kill(pid, 'SIGKILL')
    await expect(running).rejects.toMatchObject({ code: 'model_unavailable', message: 'the worker ended by SIGKILL' })
    expect(await client.call('pid', null)).not.toBe(pid)
  })

  it('reports once when it ends by itself, even when idle, and not when it is closed', async () => {
    const deaths: unknown[] = []
    let next: (() => void) | null = null
    const onDeath = (death: unknown): void => {
      deaths.push(death)
      next?.()
    }
    const client = open(processWorker(URL_OF_WORKER), { onDeath })
    const killed = { worker: 'the worker', reason: 'ended by SIGKILL', cause: undefined }
    const idle = await client.call('pid', null)
    const told = new Promise<void>((resolve) => (next = resolve))
    process.kill(idle, 'SIGKILL')
    await told
    expect(deaths).toEqual([killed])
    const busy = await client.call('pid', null)
    const running = client.call('wait', null).catch(() => {})
    process.kill(busy, 'SIGKILL')
    await running
    expect(deaths).toEqual([killed, killed])
    await client.call('pid', null)
    await client.close()
    expect(deaths).toHaveLength(2)
  })

  it('survives the signals that a terminal and a service manager send to the process group', async () => {
    const client = open(processWorker(URL_OF_WORKER))
    const pid = await client.call('pid', null)
    process.kill(pid, 'SIGINT')
    process.kill(pid, 'SIGTERM')
    expect(await client.call('pid', null)).toBe(pid)
  })

  it('reports that it cannot be started', async () => {
    const client = open(processWorker(new URL('../../test/rag/no-worker.ts', import.meta.url)))
    await expect(client.call('pid', null)).rejects.toMatchObject({
      code: 'model_unavailable',
      message: 'the worker ended with code 1',
    })
  })

  it.each([
    ['is killed', 'process.kill(process.pid, "SIGKILL")', { code: null, signal: 'SIGKILL' }],
    ['calls process.exit', 'process.exit(4)', { code: 4, signal: null }],
    ['has nothing left to do', 'process.exitCode = 5', { code: 5, signal: null }],
  ])('neither outlives its parent nor keeps it alive: the parent %s', async (_, end, expected) => {
    const folder = mkdtempSync(join(tmpdir(), 'miniserve-worker-'))
    try {
      const rpc = new URL('./worker-rpc.ts', import.meta.url).href
      const host = new URL('./worker-host.ts', import.meta.url).href
      const script = join(folder, 'parent.ts')
      writeFileSync(
        script,
        `import { WorkerClient } from ${JSON.stringify(rpc)}
         import { processWorker } from ${JSON.stringify(host)}
         const options = { name: 'w', concurrency: 1, maxWaiting: 1, failureCode: 'model_unavailable', drainOnClose: false }
         const client = new WorkerClient(processWorker(new URL(${JSON.stringify(URL_OF_WORKER.href)})), options)
         console.log(await client.call('pid', null))
         ${end}`,
      )
      const parent = spawn(process.execPath, [...process.execArgv, script], { stdio: ['ignore', 'pipe', 'inherit'] })
      let output = ''
      parent.stdout.setEncoding('utf8').on('data', (text: string) => (output += text))
      const [code, signal] = await once(parent, 'close')
      expect({ code, signal }).toEqual(expected)
      expect(Number(output)).toBeGreaterThan(0)
      await expect.poll(() => hasEnded(Number(output))).toBe(true)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
