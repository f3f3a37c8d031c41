/**
 * Deterministic automata over characters. They are needed when several rules apply to one text (a pattern and a length), or when a pattern looks
 * ahead. Built with Brzozowski derivatives: a state is the language of the texts that may still follow.
 */
import { complement, EVERY, intersection } from './code-points.ts'
import type { CodePoints } from './code-points.ts'
import { fullMatch } from './regex-anchors.ts'
import { ANYTHING, choice, EMPTY, isNullable, looksAhead, repeat, sequence } from './regex.ts'
import type { Regex } from './regex.ts'
import { Unenforceable } from '../unenforceable.ts'

export interface Automaton {
  /** A text begins in state 0. An end can be reached from every state. */
  readonly states: readonly AutomatonState[]
}

export interface AutomatonState {
  readonly isEnd: boolean
  readonly next: readonly { readonly set: CodePoints; readonly state: number }[]
}

const MAX_STATES = 4000
const MAX_DERIVATIVES = 200_000
const MAX_CLASSES = 200
/** Limit on the parts of combined languages: about a second of work. */
const MAX_WORK = 400_000
/** Limit on counted repetitions of a pattern that looks ahead, which are expanded. */
const MAX_LOOKAHEAD_REPETITIONS = 60

/** A language. Equal languages are one object, as far as that can be determined cheaply. */
type Term = { readonly id: number; readonly isNullable: boolean } & (
  | { readonly kind: 'never' | 'empty' }
  | { readonly kind: 'set'; readonly classes: ReadonlySet<number> }
  | { readonly kind: 'then'; readonly first: Term; readonly rest: Term }
  | { readonly kind: 'or' | 'and'; readonly parts: readonly Term[] }
  | { readonly kind: 'not'; readonly of: Term }
  /** Any number of repetitions of a pattern that looks ahead, and then the rest. */
  | { readonly kind: 'loop'; readonly of: Regex; readonly rest: Term }
  | { readonly kind: 'repeat'; readonly of: Term; readonly min: number; readonly max: number }
)

/**
 * The texts that belong to all of the languages and to none of the excluded ones; null if there are none.
 * @throws Unenforceable if there are too many states, and for a look-ahead inside a repetition
 */
export function intersect(languages: readonly Regex[], excluded: readonly Regex[] = []): Automaton | null {
  const builder = new Builder([...languages, ...excluded])
  const terms = languages.map((language) => builder.term(language, builder.empty))
  const forbidden = excluded.map((language) => builder.not(builder.term(language, builder.empty)))
  return explore(builder, builder.and([...terms, ...forbidden]))
}

function explore(builder: Builder, start: Term): Automaton | null {
  const numbers = new Map<Term, number>([[start, 0]])
  const states: { isEnd: boolean; next: { set: CodePoints; state: number }[] }[] = []
  const queue = [start]
  for (let term = queue.shift(); term !== undefined; term = queue.shift()) {
    const byTarget = new Map<Term, number[]>()
    for (let i = 0; i < builder.classes.length; i++) {
      const target = builder.derivative(term, i)
      if (target.kind !== 'never') byTarget.set(target, [...(byTarget.get(target) ?? []), i])
    }
    const next = [...byTarget].map(([target, classes]) => {
      let state = numbers.get(target)
      if (state === undefined) {
        state = numbers.size
        if (state >= MAX_STATES) throw new Unenforceable('rules that are too large together')
        numbers.set(target, state)
        queue.push(target)
      }
      return { set: builder.union(classes), state }
    })
    states.push({ isEnd: term.isNullable, next })
  }
  return withoutDeadEnds(states)
}

/** The texts that both automata accept; null if there are none. @throws Unenforceable for too many states */
export function product(a: Automaton, b: Automaton): Automaton | null {
  const numbers = new Map([['0 0', 0]])
  const pairs: [number, number][] = [[0, 0]]
  const states: AutomatonState[] = []
  for (let i = 0; i < pairs.length; i++) {
    const [ofA, ofB] = (pairs[i] ?? [0, 0]).map((state, j) => (j === 0 ? a : b).states[state])
    const next: { set: CodePoints; state: number }[] = []
    for (const left of ofA?.next ?? []) {
      for (const right of ofB?.next ?? []) {
        const set = intersection(left.set, right.set)
        if (set.length === 0) continue
        const key = `${left.state} ${right.state}`
        let state = numbers.get(key)
        if (state === undefined) {
          state = numbers.size
          if (state >= MAX_STATES) throw new Unenforceable('rules that are too large together')
          numbers.set(key, state)
          pairs.push([left.state, right.state])
        }
        next.push({ set, state })
      }
    }
    states.push({ isEnd: ofA?.isEnd === true && ofB?.isEnd === true, next })
  }
  return withoutDeadEnds(states)
}

function withoutDeadEnds(states: readonly AutomatonState[]): Automaton | null {
  const before: number[][] = states.map(() => [])
  for (const [i, { next }] of states.entries()) for (const { state } of next) before[state]?.push(i)
  const queue = states.flatMap(({ isEnd }, i) => (isEnd ? [i] : []))
  const live = new Set(queue)
  for (let state = queue.pop(); state !== undefined; state = queue.pop()) {
    for (const earlier of before[state] ?? []) {
      if (live.has(earlier)) continue
      live.add(earlier)
      queue.push(earlier)
    }
  }
  if (!live.has(0)) return null
  const renumbered = new Map([...live].toSorted((a, b) => a - b).map((state, i) => [state, i]))
  return {
    states: states
      .filter((_, i) => live.has(i))
      .map(({ isEnd, next }) => ({
        isEnd,
        next: next.flatMap(({ set, state }) => {
          const to = renumbered.get(state)
          return to === undefined ? [] : [{ set, state: to }]
        }),
      })),
  }
}

class Builder {
  /** Disjoint sets of characters that no rule distinguishes. */
  readonly classes: readonly CodePoints[]
  readonly never: Term
  readonly empty: Term
  readonly #known = new Map<string, Term>()
  readonly #derivatives = new Map<string, Term>()
  readonly #loops = new Map<Regex, number>()
  #work = 0

  constructor(languages: readonly Regex[]) {
    this.classes = partition(languages)
    this.never = this.#make('never', (id) => ({ id, kind: 'never', isNullable: false }))
    this.empty = this.#make('empty', (id) => ({ id, kind: 'empty', isNullable: true }))
  }

  union(classes: readonly number[]): CodePoints {
    return classes.flatMap((i) => this.classes[i] ?? []).toSorted(([a], [b]) => a - b)
  }

  /** The language of `node` followed by `rest`. */
  term(node: Regex, rest: Term): Term {
    switch (node.kind) {
      case 'set':
        return this.#then(this.#set(node.set), rest)
      case 'sequence':
        return node.parts.reduceRight((behind, part) => this.term(part, behind), rest)
      case 'choice':
        return this.#or(node.parts.map((part) => this.term(part, rest)))
      case 'repeat':
        if (looksAhead(node.of)) return this.#repeatedLookahead(node, rest)
        if (node.max === 1) return this.#or([this.term(node.of, rest), ...(node.min === 0 ? [rest] : [])])
        return this.#then(this.#repeat(this.term(node.of, this.empty), node.min, node.max), rest)
      case 'look': {
        // A look-ahead sees everything up to the end of the text.
        const seen = this.term(fullMatch(sequence({ kind: 'start' }, open(node.ahead))), this.empty)
        return this.and([rest, node.isNegated ? this.not(seen) : seen])
      }
      case 'end':
        return this.and([rest, this.empty])
      default:
        throw new Unenforceable('"^" that is not at its beginning')
    }
  }

  /** A repetition of a pattern that depends on everything after it. */
  #repeatedLookahead(
    { of, min, max }: { readonly of: Regex; readonly min: number; readonly max: number },
    rest: Term,
  ): Term {
    if (isNullable(of) || Math.max(min, max === Infinity ? 0 : max) > MAX_LOOKAHEAD_REPETITIONS)
      throw new Unenforceable('a look-ahead inside of a repetition')
    if (min > 0) return this.term(sequence(of, repeat(of, min - 1, max - 1)), rest)
    if (max === 0) return rest
    if (max < Infinity) return this.term(choice(EMPTY, sequence(of, repeat(of, 0, max - 1))), rest)
    const number = this.#loops.get(of) ?? this.#loops.size
    this.#loops.set(of, number)
    return this.#make(`loop ${number} ${rest.id}`, (id) => ({
      id,
      kind: 'loop',
      of,
      rest,
      isNullable: rest.isNullable,
    }))
  }

  and(parts: readonly Term[]): Term {
    const flat = new Set(parts.flatMap((part) => (part.kind === 'and' ? part.parts : [part])))
    this.#spend(flat.size)
    if (flat.has(this.never)) return this.never
    const sorted = [...flat].toSorted((a, b) => a.id - b.id)
    const [only] = sorted
    if (sorted.length === 1 && only !== undefined) return only
    const isNullable = sorted.every((part) => part.isNullable)
    return this.#make(`and ${ids(sorted)}`, (id) => ({ id, kind: 'and', parts: sorted, isNullable }))
  }

  #spend(numParts: number): void {
    this.#work += numParts
    if (this.#work > MAX_WORK) throw new Unenforceable('rules that are too large together')
  }

  not(of: Term): Term {
    if (of.kind === 'not') return of.of
    return this.#make(`not ${of.id}`, (id) => ({ id, kind: 'not', of, isNullable: !of.isNullable }))
  }

  /** The language of what may follow a character of the class. */
  derivative(term: Term, i: number): Term {
    const key = `${term.id} ${i}`
    const known = this.#derivatives.get(key)
    if (known !== undefined) return known
    if (this.#derivatives.size >= MAX_DERIVATIVES) throw new Unenforceable('rules that are too large together')
    const found = this.#derive(term, i)
    this.#derivatives.set(key, found)
    return found
  }

  #derive(term: Term, i: number): Term {
    switch (term.kind) {
      case 'never':
      case 'empty':
        return this.never
      case 'set':
        return term.classes.has(i) ? this.empty : this.never
      case 'then': {
        const first = this.#then(this.derivative(term.first, i), term.rest)
        return term.first.isNullable ? this.#or([first, this.derivative(term.rest, i)]) : first
      }
      case 'or':
        return this.#or(term.parts.map((part) => this.derivative(part, i)))
      case 'and':
        return this.and(term.parts.map((part) => this.derivative(part, i)))
      case 'not':
        return this.not(this.derivative(term.of, i))
      case 'loop':
        return this.derivative(this.#or([this.term(term.of, term), term.rest]), i)
      case 'repeat': {
        const rest = this.#repeat(term.of, Math.max(0, term.min - 1), term.max - 1)
        return this.#then(this.derivative(term.of, i), rest)
      }
    }
  }

  #set(set: CodePoints): Term {
    const classes = new Set<number>()
    for (const [i, members] of this.classes.entries()) if (intersection(members, set).length > 0) classes.add(i)
    if (classes.size === 0) return this.never
    return this.#make(`set ${[...classes].join(',')}`, (id) => ({ id, kind: 'set', classes, isNullable: false }))
  }

  #then(first: Term, rest: Term): Term {
    if (first.kind === 'never' || rest.kind === 'never') return this.never
    if (first.kind === 'empty') return rest
    if (rest.kind === 'empty') return first
    if (first.kind === 'then') return this.#then(first.first, this.#then(first.rest, rest))
    const isNullable = first.isNullable && rest.isNullable
    return this.#make(`then ${first.id} ${rest.id}`, (id) => ({ id, kind: 'then', first, rest, isNullable }))
  }

  #or(parts: readonly Term[]): Term {
    const flat = new Set(parts.flatMap((part) => (part.kind === 'or' ? part.parts : [part])))
    this.#spend(flat.size)
    flat.delete(this.never)
    const sorted = [...flat].toSorted((a, b) => a.id - b.id)
    const [only] = sorted
    if (only === undefined) return this.never
    if (sorted.length === 1) return only
    const isNullable = sorted.some((part) => part.isNullable)
    return this.#make(`or ${ids(sorted)}`, (id) => ({ id, kind: 'or', parts: sorted, isNullable }))
  }

  #repeat(of: Term, min: number, max: number): Term {
    if (max <= 0 || of.kind === 'empty') return this.empty
    if (of.kind === 'never') return min === 0 ? this.empty : this.never
    if (min === 1 && max === 1) return of
    // If a repetition may be empty, any number of repetitions satisfies the minimum.
    const least = of.isNullable ? 0 : min
    const isNullable = least === 0
    return this.#make(`repeat ${of.id} ${least} ${max}`, (id) => ({
      id,
      kind: 'repeat',
      of,
      min: least,
      max,
      isNullable,
    }))
  }

  #make(key: string, create: (id: number) => Term): Term {
    const known = this.#known.get(key)
    if (known !== undefined) return known
    const made = create(this.#known.size)
    this.#known.set(key, made)
    return made
  }
}

function ids(terms: readonly Term[]): string {
  return terms.map(({ id }) => id).join(',')
}

/** The language of a look-ahead: it matches a beginning of the following text, or all of it if it ends with an anchor. */
function open(ahead: Regex): Regex {
  const endsAnchored = (node: Regex): boolean =>
    node.kind === 'end' ||
    (node.kind === 'sequence' && endsAnchored(node.parts.at(-1) ?? EMPTY)) ||
    (node.kind === 'choice' && node.parts.some(endsAnchored))
  if (!endsAnchored(ahead)) return sequence(ahead, ANYTHING)
  if (ahead.kind !== 'choice') return ahead
  return { kind: 'choice', parts: ahead.parts.map(open) }
}

/** The coarsest partition of all characters in which every set of the languages is a union of classes. */
function partition(languages: readonly Regex[]): CodePoints[] {
  const sets = new Map<string, CodePoints>()
  const collect = (node: Regex): void => {
    if (node.kind === 'set') sets.set(JSON.stringify(node.set), node.set)
    else if (node.kind === 'sequence' || node.kind === 'choice') node.parts.forEach(collect)
    else if (node.kind === 'repeat') collect(node.of)
    else if (node.kind === 'look') collect(node.ahead)
  }
  languages.forEach(collect)
  collect(ANYTHING)
  let classes: CodePoints[] = [EVERY]
  for (const set of sets.values()) {
    const others = complement(set)
    classes = classes.flatMap((members) =>
      [intersection(members, set), intersection(members, others)].filter((part) => part.length > 0),
    )
    if (classes.length > MAX_CLASSES) throw new Unenforceable('too many different characters beside another rule')
  }
  return classes
}
