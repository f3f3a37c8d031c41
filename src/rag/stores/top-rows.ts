/** Selects the best rows by score. */

/** The rows with the highest scores above `floor`, best first; rows with equal scores by number. O(rows + found log depth). */
export function topRows(
  scores: Float32Array,
  depth: number,
  floor: number,
  passes: (row: number) => boolean,
): number[] {
  // A binary heap whose root is the worst kept row.
  const heap: number[] = []
  const isWorse = (a: number, b: number): boolean => {
    const difference = (scores[a] ?? 0) - (scores[b] ?? 0)
    return difference < 0 || (difference === 0 && a > b)
  }
  const sink = (start: number): void => {
    let at = start
    for (;;) {
      let worst = at
      for (const child of [2 * at + 1, 2 * at + 2]) {
        if (child < heap.length && isWorse(heap[child] ?? 0, heap[worst] ?? 0)) worst = child
      }
      if (worst === at) return
      const moved = heap[at] ?? 0
      heap[at] = heap[worst] ?? 0
      heap[worst] = moved
      at = worst
    }
  }
  let threshold = floor
  for (let row = 0; row < scores.length; row++) {
    const score = scores[row] ?? 0
    if (!(score > threshold) || !passes(row)) continue
    if (heap.length < depth) {
      heap.push(row)
      if (heap.length < depth) continue
      for (let i = (depth >> 1) - 1; i >= 0; i--) sink(i)
    } else {
      heap[0] = row
      sink(0)
    }
    threshold = scores[heap[0] ?? 0] ?? floor
  }
  return heap.sort((a, b) => (isWorse(b, a) ? -1 : 1))
}
