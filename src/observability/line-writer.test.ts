import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { LineWriter } from './line-writer.ts'

const FULL = '/dev/full'
let folder: string
let open: number[]
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'miniserve-lines-'))
  open = []
})
afterEach(() => {
  for (const descriptor of open) closeSync(descriptor)
  rmSync(folder, { recursive: true, force: true })
})

/** A writer to whatever `descriptor` is, with what it told. */
function start(descriptor: number, maxQueuedBytes?: number) {
  const told = { errors: [] as unknown[], dropped: [] as number[], numReleased: 0, descriptor }
  const writer = new LineWriter(
    {
      descriptor: () => told.descriptor,
      onError: (error) => void told.errors.push(error),
      onDropped: (numLines) => {
        told.dropped.push(numLines)
        // As the log does it: a line about the lines.
        writer.write(`dropped ${numLines}\n`)
      },
      release: () => void told.numReleased++,
    },
    maxQueuedBytes,
  )
  return { writer, told }
}

function opened(path: string, flags: 'a' | 'w'): number {
  const descriptor = openSync(path, flags)
  open.push(descriptor)
  return descriptor
}

const lines = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => `line ${from + i}\n`)

describe('a writer of lines', () => {
  it('writes all lines in order, those at the end before close returns', async () => {
    const path = join(folder, 'a.log')
    const { writer, told } = start(opened(path, 'a'))
    for (const line of lines(0, 500)) writer.write(line)
    await writer.flush()
    expect(readFileSync(path, 'utf8')).toBe(lines(0, 500).join(''))
    writer.write('one\n')
    await writer.flush()
    writer.close()
    writer.write('after the end\n')
    expect(readFileSync(path, 'utf8')).toBe([...lines(0, 500), 'one\n'].join(''))
    expect(told).toMatchObject({ errors: [], dropped: [], numReleased: 1 })
  })

  it('loses nothing that is in flight when it is closed, and releases the descriptor only then', async () => {
    const path = join(folder, 'b.log')
    const { writer, told } = start(opened(path, 'a'))
    for (const line of lines(0, 50)) writer.write(line)
    const flushed = writer.flush()
    writer.close()
    expect(told.numReleased).toBe(0)
    await flushed
    expect(told.numReleased).toBe(1)
    expect(readFileSync(path, 'utf8').split('\n').sort()).toEqual([...lines(0, 50), ''].map((l) => l.trim()).sort())
  })
})

describe.skipIf(!existsSync(FULL))('a writer of lines whose disk is full', () => {
  it('closes at once, says so once and counts what it lost', async () => {
    const { writer, told } = start(opened(FULL, 'w'))
    for (const line of lines(0, 20)) {
      writer.write(line)
      await writer.flush()
    }
    writer.close()
    expect(told.errors).toEqual([expect.objectContaining({ code: 'ENOSPC' })])
    expect(told).toMatchObject({ dropped: [20], numReleased: 1 })
    expect(writer.numDropped).toBe(20)
  })

  it('keeps a bounded number of lines, and writes them when the disk has room again', async () => {
    const path = join(folder, 'c.log')
    const { writer, told } = start(opened(FULL, 'w'), 100)
    for (const line of lines(10, 40)) {
      writer.write(line)
      await writer.flush()
    }
    // 12 lines of 8 bytes fit into the 100.
    expect(writer.numDropped).toBe(18)
    told.descriptor = opened(path, 'a')
    writer.write('dropped, but it tries again\n')
    await writer.flush()
    await writer.flush()
    expect(readFileSync(path, 'utf8')).toBe([...lines(10, 22), 'dropped 19\n'].join(''))
    expect(told.dropped).toEqual([19])
    writer.close()
    expect(told).toMatchObject({ dropped: [19], numReleased: 1 })
  })
})
