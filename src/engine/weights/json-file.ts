/** JSON files of a model. */
import { foundInstead, isMissing, readText } from '../../regular-file.ts'
import { ModelError } from '../runner/runner.ts'

export type Json = Readonly<Record<string, unknown>>

/** Whether a value of JSON is an object. */
export const isJsonObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Floats that Python writes and JSON does not have. */
const NOT_JSON = /([[,:]\s*)(?:-?Infinity|NaN)(?=\s*[\],}])/g

/** The value in a JSON file, with null for NaN and infinities; null: there is no such file. Throws ModelError for a file that is not JSON. */
export async function readJsonFile(path: string): Promise<unknown> {
  let text: string
  try {
    text = await readText(path)
  } catch (error) {
    if (isMissing(error)) return null
    throw new ModelError(`${path}: expected a file, found ${foundInstead(error)}`, { cause: error })
  }
  try {
    return JSON.parse(text) as unknown
  } catch (error) {
    try {
      return JSON.parse(text.replaceAll(NOT_JSON, '$1null')) as unknown
    } catch {
      throw new ModelError(`${path}: expected JSON, found something else (truncated download?)`, { cause: error })
    }
  }
}
