import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createLogging, type Logging } from './logging.ts'

let folder: string
let logging: Logging | null
let lines: string[]

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'miniserve-log-'))
  lines = []
  logging = null
})
afterEach(() => {
  logging?.close()
  rmSync(folder, { recursive: true, force: true })
})

function start(options: { readonly file?: string; readonly rotateBytes?: number; readonly level?: 'info' | 'silent' }) {
  logging = createLogging({
    level: options.level ?? 'info',
    file: options.file ?? null,
    stream: { write: (line) => void lines.push(line) },
    ...(options.rotateBytes === undefined ? {} : { rotateBytes: options.rotateBytes }),
  })
  return logging
}

describe('logging', () => {
  it('writes the same JSON line to the stream and, flushed, to the file', async () => {
    const file = join(folder, 'new', 'server.log')
    const { log, flush } = start({ file })
    log.info('server.ready', { port: 8000, prompt: 'never' })
    log.debug('work.failed', {})
    await flush()
    expect(readFileSync(file, 'utf8')).toBe(lines.join(''))
    expect(JSON.parse(lines[0] ?? '')).toEqual({
      level: 'info',
      time: expect.any(String),
      port: 8000,
      msg: 'server.ready',
    })
    expect(lines).toHaveLength(1)
  })

  it('goes on with one warning when the file cannot be opened', () => {
    const blocker = join(folder, 'file')
    writeFileSync(blocker, '')
    const { log } = start({ file: join(blocker, 'server.log') })
    log.info('server.ready', {})
    expect(lines.map((line) => (JSON.parse(line) as { msg: string }).msg)).toEqual([
      'log.file_unavailable',
      'server.ready',
    ])
    expect(lines[0]).toMatch(/"code":"E[A-Z]+"/)
  })

  it('rotates by size and keeps three files', async () => {
    const file = join(folder, 'server.log')
    const { log, flush } = start({ file, rotateBytes: 2000 })
    for (let i = 0; i < 60; i++) {
      log.info('work.failed', { i, filler: 'x'.repeat(220) })
      if (i % 5 === 4) await flush()
    }
    expect(readdirSync(folder).sort()).toEqual(['server.log', 'server.log.1', 'server.log.2'])
    for (const name of ['server.log.1', 'server.log.2']) expect(statSync(join(folder, name)).size).toBeGreaterThan(2000)
    const kept = readdirSync(folder)
      .sort()
      .reverse()
      .flatMap((name) => readFileSync(join(folder, name), 'utf8').trim().split('\n'))
      .filter((line) => line !== '')
      .map((line) => (JSON.parse(line) as { i: number }).i)
    expect(kept).toEqual(Array.from({ length: kept.length }, (_, n) => 60 - kept.length + n))
  })

  it('does not rotate a file that another process with the same path has just rotated', async () => {
    const file = join(folder, 'server.log')
    const { log, flush } = start({ file, rotateBytes: 2000 })
    for (let i = 0; i < 40; i++) log.info('work.failed', { i: 1 })
    await flush()
    renameSync(file, `${file}.1`)
    writeFileSync(file, 'of the other process\n')
    log.info('work.failed', { i: 2 })
    await flush()
    expect(readdirSync(folder).sort()).toEqual(['server.log', 'server.log.1'])
    expect(readFileSync(file, 'utf8')).toMatch(/^of the other process\n.*"i":2/)
  })

  it.each(['removed', 'renamed'])('opens the file again when it was %s under it', async (how) => {
    const file = join(folder, 'server.log')
    const { log, flush } = start({ file })
    log.info('work.failed', { i: 1 })
    await flush()
    if (how === 'removed') rmSync(file)
    else renameSync(file, join(folder, 'kept.log'))
    for (let i = 2; !existsSync(file); i++) {
      log.info('work.failed', { i })
      await flush()
      await new Promise((resolve) => setImmediate(resolve))
    }
    log.info('work.failed', { last: true })
    await flush()
    expect(readFileSync(file, 'utf8')).toContain('"last":true')
  })

  it('never writes into a file that is not its own when a rotation fails, and goes on when it can', async () => {
    const inner = join(folder, 'logs')
    const file = join(inner, 'server.log')
    const { log, flush } = start({ file, rotateBytes: 1000 })
    log.info('work.failed', { filler: 'x'.repeat(200) })
    await flush()
    // A file where the folder was: neither folder nor file can be made.
    rmSync(inner, { recursive: true })
    writeFileSync(inner, '')
    const strangers = Array.from({ length: 20 }, (_, i) => openSync(join(folder, `stranger-${i}`), 'w'))
    const rounds = async (until: () => boolean) => {
      while (!until()) {
        for (let i = 0; i < 5; i++) log.info('work.failed', { filler: 'x'.repeat(400) })
        await flush()
        await new Promise((resolve) => setImmediate(resolve))
      }
    }
    await rounds(() => lines.some((line) => line.includes('log.file_failed')))
    expect(lines.filter((line) => line.includes('log.file_failed'))).toHaveLength(1)
    rmSync(inner)
    await rounds(() => existsSync(file))
    log.info('work.failed', { last: true })
    await flush()
    expect(readFileSync(file, 'utf8')).toContain('work.failed')
    for (const [i, fd] of strangers.entries()) {
      expect(readFileSync(join(folder, `stranger-${i}`), 'utf8')).toBe('')
      // Still open, and still this file: nobody closed it as theirs.
      writeSync(fd, 'mine')
      expect(readFileSync(join(folder, `stranger-${i}`), 'utf8')).toBe('mine')
      closeSync(fd)
    }
  })

  it('refuses a folder that can never be made, at once', () => {
    start({ file: '/proc/none/logs/server.log' })
    expect(lines[0]).toContain('log.file_unavailable')
  })

  it('makes no file when silent', () => {
    start({ file: join(folder, 'server.log'), level: 'silent' }).log.error('work.failed', {})
    expect(readdirSync(folder)).toEqual([])
  })
})
