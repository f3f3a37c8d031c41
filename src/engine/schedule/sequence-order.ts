/** The order of sequences in the scheduler's lists. */
import type { Sequence } from './sequence.ts'

/** Running sequences in the order in which they are served. The last is preempted first. */
export function compareRunning(a: Sequence, b: Sequence): number {
  return a.priority - b.priority || a.arrival - b.arrival
}

/** Waiting sequences by arrival, preempted ones before those that never ran. */
export function compareWaiting(a: Sequence, b: Sequence): number {
  const isResumed = (sequence: Sequence) => (sequence.status === 'preempted' ? 0 : 1)
  return a.priority - b.priority || isResumed(a) - isResumed(b) || a.arrival - b.arrival
}

/** Inserts into a sorted list. Most go to its end. */
export function insert(list: Sequence[], sequence: Sequence, compare: (a: Sequence, b: Sequence) => number): void {
  const after = list.findLastIndex((other) => compare(other, sequence) <= 0)
  list.splice(after + 1, 0, sequence)
}

/** Removes a sequence. @throws if it is not in the list */
export function remove(list: Sequence[], sequence: Sequence): void {
  const index = list.indexOf(sequence)
  if (index < 0) throw new Error(`sequence ${sequence.requestId}/${sequence.choice} is not in the list it belongs to`)
  list.splice(index, 1)
}
