/** Work on what a model's files define (patterns, templates) ends in time, whatever they say. */
import { createContext, Script } from 'node:vm'

/** The work took longer than it may. */
export class DeadlineError extends Error {
  override readonly name = 'DeadlineError'
}

const context = createContext({ task: null })
const script = new Script('task()')

/**
 * What a synchronous task returns. A task that runs for longer than `ms` is stopped, inside a regular expression too: only code in a context of
 * its own can be. Costs about a tenth of a millisecond. Throws DeadlineError, and what the task throws.
 */
export function withDeadline<T>(ms: number, task: () => T): T {
  const outer: unknown = context['task']
  context['task'] = task
  try {
    return script.runInContext(context, { timeout: ms }) as T
  } catch (error) {
    // An Error of the context's own, which is no instance of ours.
    const code = typeof error === 'object' && error !== null && 'code' in error ? error.code : null
    if (code === 'ERR_SCRIPT_EXECUTION_TIMEOUT') throw new DeadlineError(`stopped after ${ms} ms`, { cause: error })
    throw error
  } finally {
    context['task'] = outer
  }
}
