/** Resolves when the promise settles, however, or the time has passed. */
export async function bounded(promise: Promise<unknown> | undefined, timeoutMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, timeoutMs)
  })
  try {
    await Promise.race([promise?.catch(() => {}), timeout])
  } finally {
    clearTimeout(timer)
  }
}
