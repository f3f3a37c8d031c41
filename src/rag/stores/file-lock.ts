/** Allows one writer at a time across processes: a lock file names its holder, and is taken over when the holder is gone. */
import { randomUUID } from 'node:crypto'
import { linkSync, readFileSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { RagError, storeUnavailable, systemReasonOf } from '../errors.ts'

const POLL_MS = 25
/** A holder touches its lock file this often. One on another machine that has not done so for STALE_MS counts as gone. */
const TOUCH_MS = 5_000
const STALE_MS = 30_000
/** Longer than it takes to recognise a stale lock. */
const TIMEOUT_MS = 40_000

const isErrno = (error: unknown, code: string): boolean =>
  error instanceof Error && 'code' in error && error.code === code

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return isErrno(error, 'EPERM')
  }
}

/**
 * Whether the holder of a lock file is gone, because it has not touched the file for long. On this machine, a process id that no longer exists
 * shows it sooner. One that exists shows nothing, because another process may have it by now.
 */
function isStale(path: string): boolean {
  const [pid = '', host = ''] = readFileSync(path, 'utf8').split('\n')
  const isOfThisHost = host === hostname()
  if (isOfThisHost && Number(pid) !== process.pid && !isAlive(Number(pid))) return true
  const ageMs = Date.now() - statSync(path).mtimeMs
  // A time that far in the future: this machine's clock was set back. Another machine's clock may be ahead while its holder is alive.
  return ageMs > STALE_MS || (isOfThisHost && ageMs < -STALE_MS)
}

/** A lock held by this process. */
export interface HeldLock {
  /** Touches the lock file: for work that blocks the event loop. */
  touch(): void
  /** To be called right before a change. @throws RagError store_unavailable if another writer took over, after this machine was suspended */
  assertHeld(): void
}

/**
 * Runs `work` while holding the lock file at `path`.
 * @throws RagError store_unavailable if another writer holds it for longer than `timeoutMs`
 */
export async function withFileLock<T>(
  path: string,
  work: (lock: HeldLock) => Promise<T> | T,
  timeoutMs = TIMEOUT_MS,
): Promise<T> {
  const token = randomUUID()
  const claim = `${path}.${token}`
  const deadline = performance.now() + timeoutMs
  try {
    writeFileSync(claim, `${process.pid}\n${hostname()}\n${token}\n`)
    for (;;) {
      // link fails if the name exists. Unlike a file opened with O_EXCL, this one names its holder from the start.
      try {
        linkSync(claim, path)
        break
      } catch (error) {
        if (!isErrno(error, 'EEXIST')) throw error
      }
      if (takeAway(path, claim)) continue
      if (performance.now() > deadline) {
        throw storeUnavailable(`another process has been writing to this index for ${timeoutMs / 1000} s`)
      }
      await sleep(POLL_MS)
    }
  } catch (error) {
    if (error instanceof RagError) throw error
    throw storeUnavailable(`the index cannot be locked: ${systemReasonOf(error)}`, error)
  } finally {
    rmSync(claim, { force: true })
  }
  const lock: HeldLock = {
    touch() {
      const now = new Date()
      try {
        utimesSync(path, now, now)
      } catch {
        // The lock was taken over: assertHeld reports it.
      }
    },
    assertHeld() {
      if (isHeldBy(path, token)) return
      throw storeUnavailable('another process took over the index; nothing was written, try again')
    },
  }
  const timer = setInterval(() => lock.touch(), TOUCH_MS)
  timer.unref()
  try {
    return await work(lock)
  } finally {
    clearInterval(timer)
    if (isHeldBy(path, token)) rmSync(path, { force: true })
  }
}

function isHeldBy(path: string, token: string): boolean {
  try {
    return readFileSync(path, 'utf8').includes(token)
  } catch {
    return false
  }
}

/**
 * Removes a stale lock. Several processes may find it stale, and a slow one must not remove the new lock of a fast one: the file is renamed,
 * checked again, and put back if it is not stale.
 */
function takeAway(path: string, claim: string): boolean {
  const aside = `${claim}.stale`
  try {
    if (!isStale(path)) return false
    renameSync(path, aside)
    if (!isStale(aside)) linkSync(aside, path)
    return true
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'EEXIST')) return true
    throw error
  } finally {
    rmSync(aside, { force: true })
  }
}
