/** A time limit for work that a model's files define (patterns, templates). */
import { createContext, Script } from 'node:vm'

/** The work exceeded its time limit. */
export class DeadlineError extends Error {
  override readonly name = 'DeadlineError'
}

const context = createContext({ task: null })
const script = new Script('task()')
/** When the running task will be stopped. */
let endsAtMs = Infinity

/**
 * Runs a synchronous task and stops it after `ms`, even inside a regular expression. Only code in a context of its own can be stopped in this way,
 * which costs about 0.1 ms. Inside a task with an earlier deadline it costs nothing, and the earlier deadline applies.
 * @throws DeadlineError, and what the task throws
 */
export function withDeadline<T>(ms: number, task: () => T): T {
  const outerEndsAtMs = endsAtMs
  const ownEndsAtMs = performance.now() + ms
  if (ownEndsAtMs >= outerEndsAtMs) return task()
  const outer: unknown = context['task']
  context['task'] = task
  endsAtMs = ownEndsAtMs
  try {
    return script.runInContext(context, { timeout: ms }) as T
  } catch (error) {
    // An Error of the other context, which is not an instance of this context's Error.
    const code = typeof error === 'object' && error !== null && 'code' in error ? error.code : null
    if (code === 'ERR_SCRIPT_EXECUTION_TIMEOUT') throw new DeadlineError(`stopped after ${ms} ms`, { cause: error })
    throw error
  } finally {
    // If this task is stopped, the `finally` of a nested task does not run.
    context['task'] = outer
    endsAtMs = outerEndsAtMs
  }
}
