/** Work on what a model's files define (patterns, templates) ends in time, whatever they say. */
import { createContext, Script } from 'node:vm'

/** The work took longer than it may. */
export class DeadlineError extends Error {
  override readonly name = 'DeadlineError'
}

const context = createContext({ task: null })
const script = new Script('task()')
/** When the task at work is stopped, if one is. */
let endsAtMs = Infinity

/**
 * What a synchronous task returns. A task that runs for longer than `ms` is stopped, inside a regular expression too: only code in a context of
 * its own can be. Costs about a tenth of a millisecond. Within a task that is stopped earlier it costs nothing, and the outer one's deadline holds.
 * Throws DeadlineError, and what the task throws.
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
    // An Error of the context's own, which is no instance of ours.
    const code = typeof error === 'object' && error !== null && 'code' in error ? error.code : null
    if (code === 'ERR_SCRIPT_EXECUTION_TIMEOUT') throw new DeadlineError(`stopped after ${ms} ms`, { cause: error })
    throw error
  } finally {
    // The `finally` of a task inside this one does not run when this one is stopped.
    context['task'] = outer
    endsAtMs = outerEndsAtMs
  }
}
