import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { watchKeyFile } from './server/key-file.ts'
import { localModel } from './engine/weights/model-path.ts'
import { loadPlugins } from './observability/plugins.ts'
import { resolveModel } from './rag/models.ts'
import { indexNames } from './rag/stores/memory-local.ts'
import { foundInstead, isMissing, makeFolder, readBytesSync, readText, readTextSync } from './regular-file.ts'

const folder = mkdtempSync(join(tmpdir(), 'miniserve-files-'))
const at = (name: string) => join(folder, name)
writeFileSync(at('file'), 'a text')
symlinkSync(at('file'), at('link'))
symlinkSync(at('loop'), at('loop'))
mkdirSync(at('folder'))
execFileSync('mkfifo', [at('pipe')])
afterAll(() => rmSync(folder, { recursive: true }))

/** What was found, by the way that waits and the one that does not. */
async function found(path: string): Promise<string> {
  const later = await readText(path).catch(foundInstead)
  let now: string
  try {
    now = readTextSync(path)
  } catch (error) {
    now = foundInstead(error)
  }
  expect(now).toBe(later)
  return now
}

describe('only regular files are read', () => {
  it('reads a file, also through a link', async () => {
    expect(await found(at('file'))).toBe('a text')
    expect(await found(at('link'))).toBe('a text')
    expect(readBytesSync(at('file'))).toEqual(Buffer.from('a text'))
  })

  it.each([
    ['folder', 'a folder'],
    ['pipe', 'a named pipe'],
    ['nothing', 'no such file'],
    ['file/below', 'no such file'],
    ['loop', 'links that lead to each other'],
    ['x'.repeat(300), 'a name that is too long'],
  ])('%s is refused at once', async (name, expected) => {
    expect(await found(at(name))).toBe(expected)
  })

  it('names no path in its message, which may reach callers of the server', async () => {
    await expect(readText(at('pipe'))).rejects.toThrow(/^expected a file, found a named pipe$/)
    execFileSync('mkfifo', [at('piped.idx')])
    writeFileSync(at('server.key'), 'not the folder of a key')
    expect(indexNames(folder)).toEqual([])
  })

  it('a device is refused', async () => {
    expect(await found('/dev/zero')).toBe('a device')
    expect(isMissing(await readText(at('nothing')).catch((error: unknown) => error))).toBe(true)
  })

  it('by the keys, models and plugins that are named', async () => {
    expect(() => watchKeyFile(at('pipe'), () => {})).toThrow('expected a key file, found a named pipe')
    await expect(localModel(at('pipe'))).rejects.toThrow('expected a file, found a named pipe')
    const hub = { cacheDir: folder, endpoint: '', token: null, offline: true }
    expect(() =>
      resolveModel(at('pipe'), '--embedding-model', { hub, downloadDir: folder, device: 'cpu', threads: 1 }),
    ).toThrow('--embedding-model: ' + at('pipe') + ': expected a file, found a named pipe')
    await expect(loadPlugins([at('pipe')], {} as never)).rejects.toThrow(
      'expected a JavaScript file, found a named pipe',
    )
  })
})

describe('a folder that is made', () => {
  it('is there with those above it, also when it was there before', () => {
    makeFolder(at('new/one/more'))
    makeFolder(at('new/one/more'))
    writeFileSync(at('new/one/more/file'), 'a text')
    expect(readTextSync(at('new/one/more/file'))).toBe('a text')
  })

  it('is refused below a file, and below /proc, where Node would look for one without end', () => {
    expect(() => makeFolder(at('file/below'))).toThrow('ENOTDIR')
    expect(() => makeFolder(at('file'))).toThrow('EEXIST')
    expect(() => makeFolder('/proc/none/below')).toThrow('ENOENT')
  })
})
