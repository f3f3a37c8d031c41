/** Signals that ask the process to stop, and uncaught errors. */
import { constants } from 'node:os'
import type { Observability } from './observability/observability.ts'
import { PARENT_PID } from './parent-process.ts'

/** How long the exporter's last flush may delay the exit. */
export const EXPORT_FLUSH_MS = 5_000

/**
 * After an uncaught exception the state of the process is unknown: open traces are ended and exported, and the process exits with 1. The
 * message of the exception may quote a request, so it is not logged.
 */
export function handleCrashes(observability: Observability): {
  /** @param close awaited before the exit: it has to settle within a time of its own */
  closeFirst(close: () => Promise<unknown>): void
  release(): void
} {
  let isCrashing = false
  let close: () => Promise<unknown> = async () => {}
  const onCrash = (thrown: unknown) => {
    if (isCrashing) return
    isCrashing = true
    observability.logger.fatal('process.crashed', { error: thrown })
    process.stderr.write(
      'miniserve: ended by an unexpected error; the log line process.crashed has its class and where it came from\n',
    )
    const exit = () => process.exit(1)
    // Exits even if either fails.
    const ended = [observability.shutdown(EXPORT_FLUSH_MS, { crash: thrown ?? new Error('nothing') }), close()]
    void Promise.allSettled(ended).then(exit)
  }
  process.on('uncaughtException', onCrash)
  process.on('unhandledRejection', onCrash)
  return {
    closeFirst(given) {
      close = given
    },
    release() {
      process.off('uncaughtException', onCrash)
      process.off('unhandledRejection', onCrash)
    },
  }
}

/** How often a server that npm started looks for its shell. */
const SHELL_CHECK_MS = 500

/**
 * The first SIGTERM or SIGINT asks for a graceful stop, the second ends the process at once. `isRunByNpm`: npm runs the server in a shell
 * that ends on SIGTERM without passing it on, so the end of the shell asks for a stop as well.
 */
export function stopSignal(isRunByNpm: boolean): { readonly requested: Promise<'stop'>; release(): void } {
  let request: () => void = () => {}
  const requested = new Promise<'stop'>((resolve) => {
    request = () => resolve('stop')
  })
  let isRequested = false
  const onSignal = (signal: NodeJS.Signals) => {
    if (isRequested) endBy(signal)
    isRequested = true
    request()
  }
  // Leaving by process.exit would take down the thread of the GPU, whose driver aborts the process if a buffer is still being read.
  const endBy = (signal: NodeJS.Signals) => {
    release()
    process.kill(process.pid, signal)
    // The first process of a container is not ended by a signal that nothing handles.
    process.exit(128 + constants.signals[signal])
  }
  process.on('SIGTERM', onSignal)
  process.on('SIGINT', onSignal)
  // The terminal is gone, or a service manager asks for it: running requests are finished all the same.
  process.on('SIGHUP', onSignal)
  const watch = isRunByNpm
    ? setInterval(() => {
        if (process.ppid !== PARENT_PID) request()
      }, SHELL_CHECK_MS)
    : null
  const release = () => {
    if (watch) clearInterval(watch)
    process.off('SIGTERM', onSignal)
    process.off('SIGINT', onSignal)
    process.off('SIGHUP', onSignal)
  }
  return { requested, release }
}
