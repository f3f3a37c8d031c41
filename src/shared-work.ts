/** Asynchronous work that several callers share. */

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

/** The outcome of shared work; rejects with the signal's reason as soon as it is aborted, while the work goes on for the others. */
export function untilAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work
  return new Promise<T>((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason)
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}
