/** The level of detail a stored trace was recorded at, by what is in it. */
import { SPAN_TABLE } from '../../observability/contract.ts'
import { CONTRACT_LEVELS, type ContractLevel } from '../../observability/contract/span-spec.ts'
import type { StoredTrace } from '../../observability/stored-trace.ts'

/** The highest contract level that the spans need. */
export function levelOf(spans: StoredTrace['spans']): ContractLevel {
  let level: ContractLevel = 'contract'
  for (const span of spans) {
    const found = SPAN_TABLE[span.name]?.level ?? 'contract'
    if (CONTRACT_LEVELS.indexOf(found) > CONTRACT_LEVELS.indexOf(level)) level = found
  }
  return level
}
