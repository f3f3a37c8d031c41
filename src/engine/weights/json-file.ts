/** JSON files of a model. */
import { foundInstead, isMissing, readText } from '../../regular-file.ts'
import { ModelError } from '../runner/runner.ts'

export type Json = Readonly<Record<string, unknown>>

/** Whether a value of JSON is an object. */
export const isJsonObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Floats that Python writes and JSON does not have. */
const NOT_JSON = /([[,:]\s*)(?:-?Infinity|NaN)(?=\s*[\],}])/g

/** The object in a JSON file, with null for NaN and infinities; null: there is no such file. @throws ModelError for any other content */
export const readJsonObject = (path: string): Promise<Json | null> => readJsonFile(path, isJsonObject, 'object')

/** As readJsonObject, for a file with a list. */
export const readJsonList = (path: string): Promise<readonly unknown[] | null> =>
  readJsonFile(path, (value) => Array.isArray(value), 'list')

async function readJsonFile<T>(path: string, is: (value: unknown) => value is T, expected: string): Promise<T | null> {
  let text: string
  try {
    text = await readText(path)
  } catch (error) {
    if (isMissing(error)) return null
    throw new ModelError(`${path}: expected a file, found ${foundInstead(error)}`, { cause: error })
  }
  const value = parse(path, text)
  if (is(value)) return value
  const found =
    value === null ? 'null' : Array.isArray(value) ? 'a list' : isJsonObject(value) ? 'an object' : `a ${typeof value}`
  throw new ModelError(`${path}: expected a JSON ${expected}, found ${found}`)
}

function parse(path: string, text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    try {
      return JSON.parse(text.replaceAll(NOT_JSON, '$1null'))
    } catch {
      throw new ModelError(`${path}: expected JSON, found something else (truncated download?)`, { cause: error })
    }
  }
}
