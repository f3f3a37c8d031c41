/** `miniserve trace validate` and `trace convert`: the validator and the converters over files. */
import { foundInstead, readTextSync } from '../regular-file.ts'
import { isInLevel, SPAN_TABLE } from './contract.ts'
import { CONTRACT_LEVELS, type ContractLevel } from './contract/span-spec.ts'
import { eachSpan, type OtlpTraces } from './otlp.ts'
import { parseTraceText, type TraceFormat, writeTraces } from './trace-formats.ts'
import { TraceFormatError } from './trace-json.ts'
import { formatBreach, validateTraces } from './validate.ts'

/**
 * Validates a file against the contract, at a level or (null) the lowest that knows its spans. Each breach is one line naming trace, span, rule, what was expected and what was found.
 * @throws TraceFormatError when the file cannot be read or is in none of the forms.
 */
export function validateTraceFile(
  path: string,
  level: ContractLevel | null,
): { readonly ok: boolean; readonly breaches: readonly string[] } {
  const traces = readTraceFile(path)
  const breaches = validateTraces(traces, level ?? levelOf(traces)).map(formatBreach)
  return { ok: breaches.length === 0, breaches }
}

/** The lowest level that knows every span of the contract in the file. */
function levelOf(traces: OtlpTraces): ContractLevel {
  const names = new Set([...eachSpan(traces)].map(({ span }) => span.name))
  const specs = [...names].flatMap((name) => (Object.hasOwn(SPAN_TABLE, name) ? (SPAN_TABLE[name] ?? []) : []))
  return CONTRACT_LEVELS.find((level) => specs.every((spec) => isInLevel(spec, level))) ?? 'contract'
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
    text = readTextSync(path)
  } catch (error) {
    throw new TraceFormatError(path, 'a trace file', foundInstead(error))
  }
  return parseTraceText(text)
}
