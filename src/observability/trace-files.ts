/** The commands `miniserve trace validate` and `trace convert`. */
import { foundInstead, readTextSync } from '../regular-file.ts'
import { levelOf } from './contract.ts'
import type { ContractLevel } from './contract/span-spec.ts'
import { eachSpan, type OtlpTraces } from './otlp.ts'
import { parseTraceText, type TraceFormat, writeTraces } from './trace-formats.ts'
import { TraceFormatError } from './trace-json.ts'
import { formatBreach, validateTraces } from './validate.ts'

/**
 * Validates a file against the contract, at a level or (null) at the lowest that includes its spans. A breach is one line with trace, span,
 * rule, what was expected and what was found.
 * @throws TraceFormatError if the file cannot be read or has none of the formats
 */
export function validateTraceFile(
  path: string,
  level: ContractLevel | null,
): { readonly ok: boolean; readonly breaches: readonly string[] } {
  const traces = readTraceFile(path)
  const breaches = validateTraces(traces, level ?? levelOf([...eachSpan(traces)].map(({ span }) => span.name))).map(
    formatBreach,
  )
  return { ok: breaches.length === 0, breaches }
}

/**
 * The file in another format, as JSON text.
 * @throws TraceFormatError if the file cannot be read or has none of the formats
 */
export function convertTraceFile(path: string, to: TraceFormat): string {
  return `${JSON.stringify(writeTraces(readTraceFile(path), to), null, 2)}\n`
}

function readTraceFile(path: string): OtlpTraces {
  let text: string
  try {
    text = readTextSync(path)
  } catch (error) {
    throw new TraceFormatError(path, 'a trace file', foundInstead(error))
  }
  try {
    return parseTraceText(text)
  } catch (error) {
    throw error instanceof TraceFormatError ? error.inFile(path) : error
  }
}
