/** Reads JSON of unknown origin. Errors name the path, what was expected and what was found. */

export type JsonRecord = Readonly<Record<string, unknown>>

/** The path of a value that is the whole file. */
export const FILE = 'file'

/** A trace file that has none of the formats. */
export class TraceFormatError extends Error {
  override readonly name = 'TraceFormatError'
  readonly #parts: readonly [path: string, expected: string, found: string]

  /** @param path where it is in the file; FILE: the whole of it */
  constructor(path: string, expected: string, found: string) {
    super(`${path}: expected ${expected}, found ${found}`)
    this.#parts = [path, expected, found]
  }

  /** The same error, naming the file as well. */
  inFile(name: string): TraceFormatError {
    const [path, expected, found] = this.#parts
    return new TraceFormatError(path === FILE ? name : `${name}: ${path}`, expected, found)
  }
}

export const isRecord = (value: unknown): value is JsonRecord =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** The value as an object. @param path where it is, for the error @throws TraceFormatError */
export function asRecord(value: unknown, path: string): JsonRecord {
  if (isRecord(value)) return value
  throw new TraceFormatError(path, 'an object', Array.isArray(value) ? 'an array' : typeof value)
}

/** The value as an array. @param path where it is, for the error @throws TraceFormatError */
export function asArray(value: unknown, path: string): readonly unknown[] {
  if (Array.isArray(value)) return value
  throw new TraceFormatError(path, 'an array', typeof value)
}

export const optionalString = (value: unknown): string => (typeof value === 'string' ? value : '')
