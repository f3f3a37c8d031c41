/** Resolves the anchors of a pattern, by rewriting it as a pattern of the whole text. */
import { ANYTHING, choice, containsKind, EMPTY, type Regex, sequence } from './regex.ts'
import { Unenforceable } from '../unenforceable.ts'

/** The language of the texts in which the pattern matches somewhere. @throws Unenforceable */
export function partialMatch(pattern: Regex): Regex {
  return anchored(pattern, ANYTHING)
}

/** The language of the texts that match the pattern as a whole. @throws Unenforceable */
export function fullMatch(pattern: Regex): Regex {
  return anchored(pattern, EMPTY)
}

/** `free` stands where the pattern has no anchor. */
function anchored(pattern: Regex, free: Regex): Regex {
  const begun = splitAtStart(pattern)
  const behind = (part: Regex) => (free === EMPTY ? atStart(part) : sequence(free, part))
  const ended = splitAtEnd(choice(...begun.anchored.map(atStart), ...begun.free.map(behind)))
  const whole = choice(...ended.anchored, ...ended.free.map((part) => sequence(part, free)))
  if (containsKind(whole, 'start', true)) throw new Unenforceable('"^" that is not at its beginning')
  return whole
}

/** What stands at the beginning of a text: so does what its first look-aheads see. */
function atStart(node: Regex): Regex {
  if (node.kind === 'choice') return choice(...node.parts.map(atStart))
  if (node.kind === 'look') {
    const { anchored: begun, free } = splitAtStart(node.ahead)
    return { ...node, ahead: choice(...[...begun, ...free].map(atStart)) }
  }
  if (node.kind !== 'sequence') return node
  const numLooks = node.parts.findIndex(({ kind }) => kind !== 'look')
  const end = numLooks < 0 ? node.parts.length : numLooks + 1
  return sequence(...node.parts.slice(0, end).map(atStart), ...node.parts.slice(end))
}

/** The alternatives that begin with an anchor, without it, and the others. */
interface Split {
  readonly anchored: readonly Regex[]
  readonly free: readonly Regex[]
}

function splitAtStart(node: Regex): Split {
  if (node.kind === 'start') return { anchored: [EMPTY], free: [] }
  if (node.kind === 'choice') return splitParts(node.parts, splitAtStart)
  if (node.kind !== 'sequence' || !hasAnchor(node)) return { anchored: [], free: [node] }
  const [first = EMPTY, ...rest] = node.parts
  if (first.kind === 'start') {
    const { anchored: begun, free } = splitAtStart(sequence(...rest))
    return { anchored: [...begun, ...free], free: [] }
  }
  if (first.kind === 'look') return extend(splitAtStart(sequence(...rest)), (part) => sequence(first, part))
  return extend(splitAtStart(first), (part) => sequence(part, ...rest))
}

function splitAtEnd(node: Regex): Split {
  if (node.kind === 'end') return { anchored: [EMPTY], free: [] }
  if (node.kind === 'choice') return splitParts(node.parts, splitAtEnd)
  if (node.kind !== 'sequence' || !hasAnchor(node)) return { anchored: [], free: [node] }
  return extend(splitAtEnd(node.parts.at(-1) ?? EMPTY), (part) => sequence(...node.parts.slice(0, -1), part))
}

function splitParts(parts: readonly Regex[], split: (part: Regex) => Split): Split {
  const all = parts.map(split)
  return { anchored: all.flatMap(({ anchored }) => anchored), free: all.flatMap(({ free }) => free) }
}

function extend({ anchored, free }: Split, change: (part: Regex) => Regex): Split {
  return { anchored: anchored.map(change), free: free.map(change) }
}

/** Whether the pattern has an anchor outside of look-aheads. */
function hasAnchor(node: Regex): boolean {
  return containsKind(node, 'start', false) || containsKind(node, 'end', false)
}
