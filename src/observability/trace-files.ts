/** `miniserve trace validate` and `trace convert`: the validator and the converters over files. */
import { readFileSync } from 'node:fs'
import type { ContractLevel } from './contract-spec.ts'
import { parseTraceText, type TraceFormat, writeTraces } from './trace-formats.ts'
import { formatBreach, validateTraces } from './validate.ts'

/**
 * Holds a file against the contract. Each breach is one line naming trace, span, rule, what was expected and what was found.
 * @throws when the file cannot be read or is in none of the forms.
 */
export function validateTraceFile(
  path: string,
  level: ContractLevel,
): { readonly ok: boolean; readonly breaches: readonly string[] } {
  const breaches = validateTraces(parseTraceText(readFileSync(path, 'utf8')), level).map(formatBreach)
  return { ok: breaches.length === 0, breaches }
}

/**
 * The file in another form, as JSON text.
 * @throws when the file cannot be read or is in none of the forms.
 */
export function convertTraceFile(path: string, to: TraceFormat): string {
  return `${JSON.stringify(writeTraces(parseTraceText(readFileSync(path, 'utf8')), to), null, 2)}\n`
}
