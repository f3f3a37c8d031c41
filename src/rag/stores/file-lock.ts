/** One writer at a time across processes: a lock file naming its holder, taken over when the holder is gone. */
import { randomUUID } from 'node:crypto'
import { linkSync, readFileSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { RagError, systemReasonOf } from '../errors.ts'

const POLL_MS = 25
/** A holder touches its lock this often; one on another machine that has not for STALE_MS is taken to be gone. */
const TOUCH_MS = 5_000
const STALE_MS = 30_000

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
 * Whether the holder of a lock file is gone: it has not touched it for long. On this machine, a process id that no longer exists
 * shows it sooner; one that exists shows nothing, because another process may have it by now.
 */
function isStale(path: string): boolean {
  const [pid = '', host = ''] = readFileSync(path, 'utf8').split('\n')
  const isOfThisHost = host === hostname()
  if (isOfThisHost && Number(pid) !== process.pid && !isAlive(Number(pid))) return true
  const ageMs = Date.now() - statSync(path).mtimeMs
  // As long in the future: this machine's clock was set back since. Another machine's may be ahead, and its holder alive.
  return ageMs > STALE_MS || (isOfThisHost && ageMs < -STALE_MS)
}

/** A lock that is held. */
export interface HeldLock {
  /** For work that blocks the event loop: touches the lock file. */
  touch(): void
  /** Right before a change. @throws RagError store_unavailable when another writer took over, after a suspension of the machine. */
  assertHeld(): void
}

/**
 * Runs `work` while holding the lock file at `path`.
 * @throws RagError store_unavailable when another writer keeps it for longer than `timeoutMs`.
 */
export async function withFileLock<T>(
  path: string,
  timeoutMs: number,
  work: (lock: HeldLock) => Promise<T> | T,
): Promise<T> {
  const token = randomUUID()
  const claim = `${path}.${token}`
  const deadline = performance.now() + timeoutMs
  try {
    writeFileSync(claim, `${process.pid}\n${hostname()}\n${token}\n`)
    for (;;) {
      // link fails if the name exists. Unlike with O_EXCL, the file has the holder's name from its first moment.
      try {
        linkSync(claim, path)
        break
      } catch (error) {
        if (!isErrno(error, 'EEXIST')) throw error
      }
      if (takeAway(path, claim)) continue
      if (performance.now() > deadline) {
        throw new RagError(
          'store_unavailable',
          `another process has been writing to this index for ${timeoutMs / 1000} s`,
        )
      }
      await sleep(POLL_MS)
    }
  } catch (error) {
    if (error instanceof RagError) throw error
    throw new RagError('store_unavailable', `the index cannot be locked: ${systemReasonOf(error)}`, null, {
      cause: error,
    })
  } finally {
    rmSync(claim, { force: true })
  }
  const lock: HeldLock = {
    touch() {
      const now = new Date()
      try {
        utimesSync(path, now, now)
      } catch {
        // Taken over: assertHeld reports it.
      }
    },
    assertHeld() {
      if (isHeldBy(path, token)) return
      throw new RagError('store_unavailable', 'another process took over the index; nothing was written, try again')
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
 * Removes a stale lock. Several may find it stale, and a slow one must not remove the new lock of a fast one: so it is renamed
 * first, judged again, and put back when it turns out to be a live one.
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
