/** Fairness between tenants: whose sequence is next, and whose is preempted. */
import type { Sequence } from './sequence.ts'

/** Sequences of each tenant. */
export function countByTenant(sequences: readonly Sequence[]): Map<string, number> {
  const counts = new Map<string, number>()
  for (const { tenant } of sequences) counts.set(tenant, (counts.get(tenant) ?? 0) + 1)
  return counts
}

/** Orders sequences by how many of the same tenant come before them, `ahead` included. Otherwise the given order is kept. */
export function roundRobin(
  sequences: readonly Sequence[],
  ahead: ReadonlyMap<string, number> = new Map(),
): readonly Sequence[] {
  const first = sequences[0]?.tenant
  if (sequences.every(({ tenant }) => tenant === first)) return sequences
  const counts = new Map(ahead)
  const ranked = sequences.map((sequence) => {
    const rank = counts.get(sequence.tenant) ?? 0
    counts.set(sequence.tenant, rank + 1)
    return { sequence, rank }
  })
  return ranked.sort((a, b) => a.rank - b.rank).map(({ sequence }) => sequence)
}

/** The last sequence that may be taken, of the tenant with the most sequences. */
export function newestOfLargestTenant(
  sequences: readonly Sequence[],
  mayTake: (sequence: Sequence) => boolean = () => true,
): Sequence | undefined {
  const counts = countByTenant(sequences)
  let found: Sequence | undefined
  for (const sequence of sequences) {
    if (!mayTake(sequence)) continue
    if (found === undefined || (counts.get(sequence.tenant) ?? 0) >= (counts.get(found.tenant) ?? 0)) found = sequence
  }
  return found
}
