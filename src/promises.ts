/** Asynchronous work that several callers share, and waits that end in any case. */

/** Starts `work` on the first call; later calls get the same outcome. After a failure the next call starts it again. */
export function shared<T>(work: () => Promise<T>): () => Promise<T> {
  const call = sharedByKey(() => '', work)
  return () => call(null)
}

/** As `shared`, once for all subjects with the same key. */
export function sharedByKey<S, T>(keyOf: (subject: S) => string, work: (subject: S) => Promise<T>) {
  const started = new Map<string, Promise<T>>()
  return (subject: S): Promise<T> => {
    const key = keyOf(subject)
    const known = started.get(key)
    if (known) return known
    const outcome = work(subject)
    started.set(key, outcome)
    outcome.catch(() => started.delete(key))
    return outcome
  }
}

/** The outcome of the work; rejects with the signal's reason as soon as it is aborted, while the work goes on for others. */
export function untilAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work
  return new Promise<T>((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason)
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}

/** The outcome of the work; rejects with `lateError` if there is none after `timeoutMs`. */
export async function untilLate<T>(work: Promise<T>, timeoutMs: number, lateError: () => Error): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(lateError()), Math.max(timeoutMs, 0))
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

/** Resolves when the work has ended, failed included, but after `timeoutMs` at the latest. */
export async function endedWithin(timeoutMs: number, work: Promise<unknown> | undefined): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, timeoutMs)))
  await Promise.race([work?.catch(() => {}), late])
  clearTimeout(timer)
}
