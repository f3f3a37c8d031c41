/**
 * Files and folders whose paths come from people. Only regular files are opened: reading a named pipe would block a thread until something is
 * written to it, and a device may never end.
 */
import { closeSync, constants, fstatSync, mkdirSync, openSync, readFileSync, statSync, type Stats } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { dirname } from 'node:path'

/** A path that leads to something other than a regular file. */
class NotAFileError extends Error {
  /** With an article: "a folder", "a named pipe", "a socket", "a device". */
  readonly found: string

  /** The message names no path: it may reach callers of the server. */
  constructor(found: string) {
    super(`expected a file, found ${found}`)
    this.name = 'NotAFileError'
    this.found = found
  }
}

// Opening a named pipe waits for its other end without this. Windows has neither.
const READ = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0)

/** Opens a file for reading. @throws NotAFileError, or the system's error where it cannot be opened. */
export async function openFile(path: string): Promise<FileHandle> {
  const file = await open(path, READ)
  try {
    requireFile(await file.stat())
    return file
  } catch (error) {
    await file.close()
    throw error
  }
}

/** As openFile, at once: a descriptor for the caller to close. */
export function openFileSync(path: string): number {
  const descriptor = openSync(path, READ)
  try {
    requireFile(fstatSync(descriptor))
    return descriptor
  } catch (error) {
    closeSync(descriptor)
    throw error
  }
}

/** All bytes of a file. @throws as openFile. */
export async function readFile(path: string): Promise<Buffer> {
  const file = await openFile(path)
  try {
    return await file.readFile()
  } finally {
    await file.close()
  }
}

/** A file's UTF-8 text. @throws as openFile. */
export const readText = async (path: string): Promise<string> => (await readFile(path)).toString('utf8')

/** All bytes of a file, at once. @throws as openFile. */
export function readBytesSync(path: string): Buffer {
  const descriptor = openFileSync(path)
  try {
    return readFileSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
}

/** A file's UTF-8 text, at once. @throws as openFile. */
export const readTextSync = (path: string): string => readBytesSync(path).toString('utf8')

/** Makes a folder and those above it, as mkdir -p. Node's own recursive mkdir never returns below /proc. @throws the system's error. */
export function makeFolder(path: string, mode = 0o777): void {
  try {
    mkdirSync(path, { mode })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    // A file above it: nothing can be made there, and some versions of Node throw when asked what is.
    if (code === 'ENOTDIR') throw error
    if (isFolder(path)) return
    const parent = dirname(path)
    if (code !== 'ENOENT' || parent === path) throw error
    makeFolder(parent, mode)
    try {
      mkdirSync(path, { mode })
    } catch (second) {
      // Another process may have made it meanwhile.
      if (!isFolder(path)) throw second
    }
  }
}

const isFolder = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false

const FOUND: Readonly<Record<string, string>> = {
  ENOENT: 'no such file',
  ENOTDIR: 'no such file',
  EISDIR: 'a folder',
  EACCES: 'one without permission to read',
  EPERM: 'one without permission to read',
  ENXIO: 'a socket',
  ELOOP: 'links that lead to each other',
  ENAMETOOLONG: 'a name that is too long',
  EMFILE: 'too many open files',
}

/** What was found where a file was expected, for messages: from an error of the functions above. */
export function foundInstead(error: unknown): string {
  if (error instanceof NotAFileError) return error.found
  const code = error instanceof Error && 'code' in error ? String(error.code) : String(error)
  return FOUND[code] ?? code
}

/** Nothing is at the path. */
export const isMissing = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR')

function requireFile(stats: Stats): void {
  if (stats.isFile()) return
  const found = stats.isDirectory()
    ? 'a folder'
    : stats.isFIFO()
      ? 'a named pipe'
      : stats.isSocket()
        ? 'a socket'
        : 'a device'
  throw new NotAFileError(found)
}
