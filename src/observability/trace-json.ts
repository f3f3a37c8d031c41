/** Reads JSON of unknown origin. Errors name the path, what was expected and what was found. */

export type JsonRecord = Readonly<Record<string, unknown>>

/** A trace file that has none of the formats. */
export class TraceFormatError extends Error {
  override readonly name = 'TraceFormatError'
  constructor(path: string, expected: string, found: string) {
    super(`${path}: expected ${expected}, found ${found}`)
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
