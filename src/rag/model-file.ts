/** JSON files of a retrieval model. */
import { join } from 'node:path'
import { z } from 'zod'
import { foundInstead, readTextSync } from '../regular-file.ts'
import { messageOf, modelUnavailable } from './errors.ts'

/**
 * The value in a JSON file of a folder, as `parse` returns it.
 * @throws RagError model_unavailable naming the file and what was expected
 */
export function readModelFile<T>(folder: string, name: string, parse: (json: unknown) => T): T {
  const path = join(folder, name)
  let text: string
  try {
    text = readTextSync(path)
  } catch (error) {
    throw modelUnavailable(`${path}: expected a file, found ${foundInstead(error)}`, error)
  }
  try {
    return parse(modelJson(text))
  } catch (error) {
    throw modelUnavailable(`${path}: ${problemOf(error)}`, error)
  }
}

/** @throws Error that quotes nothing of the text */
export function modelJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new Error('expected JSON, found something else', { cause: error })
  }
}

/** What an error says about a file; of a ZodError only its first issue, after the field. */
export function problemOf(error: unknown): string {
  if (!(error instanceof z.ZodError)) return messageOf(error)
  const [issue] = error.issues
  return [...(issue?.path.length ? [issue.path.join('.')] : []), issue?.message].join(': ')
}
