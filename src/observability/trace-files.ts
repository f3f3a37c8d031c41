/** `miniserve trace validate` and `trace convert`: the validator and the converters over files. */
import { readFileSync } from 'node:fs'
import type { ContractLevel } from './contract-spec.ts'
import { type OtlpTraces } from './otlp.ts'
import { parseTraceText, type TraceFormat, writeTraces } from './trace-formats.ts'
import { TraceFormatError } from './trace-json.ts'
import { formatBreach, validateTraces } from './validate.ts'

/**
 * Holds a file against the contract. Each breach is one line naming trace, span, rule, what was expected and what was found.
 * @throws TraceFormatError when the file cannot be read or is in none of the forms.
 */
export function validateTraceFile(
  path: string,
  level: ContractLevel,
): { readonly ok: boolean; readonly breaches: readonly string[] } {
  const breaches = validateTraces(readTraceFile(path), level).map(formatBreach)
  return { ok: breaches.length === 0, breaches }
}

/**
 * The file in another form, as JSON text.
 * @throws TraceFormatError when the file cannot be read or is in none of the forms.
 */
export function convertTraceFile(path: string, to: TraceFormat): string {
  return `${JSON.stringify(writeTraces(readTraceFile(path), to), null, 2)}\n`
}

function readTraceFile(path: string): OtlpTraces {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'an error'
    const found = { ENOENT: 'no such file', EISDIR: 'a folder', EACCES: 'one that may not be read' }[code] ?? code
    throw new TraceFormatError(path, 'a trace file', found)
  }
  return parseTraceText(text)
}
