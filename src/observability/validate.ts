/**
 * Validates traces against the contract. A trace id may have several roots, because a caller may make several calls, and there may be several
 * servers. Each http.handler and each engine.step is validated separately. A breach names the span, the rule and what was found.
 */
import { isInLevel, ROOT_SPAN, SCOPE_NAME, specOf } from './contract.ts'
import type { AttributeSpec, ContractLevel, SpanSpec } from './contract/span-spec.ts'
import { type EndingRow, ENDINGS, ERROR_CODE } from './endings.ts'
import { isOpenInference } from './open-inference.ts'
import {
  eachSpan,
  type OtlpAttribute,
  type OtlpEvent,
  type OtlpSpan,
  type OtlpTraces,
  type OtlpValue,
  plainValue,
} from './otlp.ts'

export interface Breach {
  readonly traceId: string
  readonly spanId: string
  readonly span: string
  /** Stable name of the rule. */
  readonly rule: string
  readonly message: string
}

/** Namespaces of the contract. An attribute in them that is not in the contract is a mistake, not an extension. */
const OWN_NAMESPACES = /^(llm|rag|kv|engine|tokenizer|output|http|gen_ai|sampling)\./

interface Node {
  readonly span: OtlpSpan
  readonly spec: SpanSpec
  readonly values: ReadonlyMap<string, OtlpValue>
  readonly children: Node[]
  parent: Node | null
}

/** All breaches of the contract at a level; empty if the traces are valid. */
export function validateTraces(traces: OtlpTraces, level: ContractLevel): readonly Breach[] {
  return new Validation(level).run(traces)
}

/** One line: trace id, span id, span name, rule, message. */
export function formatBreach(breach: Breach): string {
  return `${breach.traceId} ${breach.spanId} ${breach.span}: ${breach.rule}: ${breach.message}`
}

class Validation {
  readonly #breaches: Breach[] = []
  readonly #level: ContractLevel

  constructor(level: ContractLevel) {
    this.#level = level
  }

  run(traces: OtlpTraces): readonly Breach[] {
    const all = [...eachSpan(traces)]
    // Spans of other services and of plugins are not in the contract. If a file has no scopes, all of its spans are validated.
    const own = all.filter(({ scope }) => scope === SCOPE_NAME)
    const spans = (own.length > 0 ? own : all.filter(({ scope }) => scope === '')).map(({ span }) => span)
    const nodes = this.#nodesOf(spans)
    for (const node of nodes.values()) this.#checkSpan(node)
    const roots = [...nodes.values()].filter((node) => node.spec.parent === null)
    if (roots.length === 0) {
      const first = spans[0]
      this.#add(
        first ?? NO_SPAN,
        'root.missing',
        `expected a span ${ROOT_SPAN}, found ${spans.length} spans without one`,
      )
    }
    for (const root of roots) if (root.span.name === ROOT_SPAN) this.#checkRequest(root)
    return this.#breaches
  }

  #add(span: Pick<OtlpSpan, 'traceId' | 'spanId' | 'name'>, rule: string, message: string): void {
    this.#breaches.push({ traceId: span.traceId, spanId: span.spanId, span: span.name, rule, message })
  }

  /** Spans of the contract by id, linked to their parents. */
  #nodesOf(spans: readonly OtlpSpan[]): Map<string, Node> {
    const nodes = new Map<string, Node>()
    for (const span of spans) {
      const key = `${span.traceId}/${span.spanId}`
      const spec = specOf(span.name)
      if (!spec || !isInLevel(spec, this.#level)) {
        this.#add(span, 'span.unknown', `expected a span of the contract at level ${this.#level}, found ${span.name}`)
      } else if (nodes.has(key)) {
        this.#add(span, 'span.duplicate', 'expected one span of this id, found two')
      } else {
        nodes.set(key, {
          span,
          spec,
          values: new Map(span.attributes.map(({ key, value }) => [key, value])),
          children: [],
          parent: null,
        })
      }
    }
    for (const node of nodes.values()) {
      const parent = nodes.get(`${node.span.traceId}/${node.span.parentSpanId}`)
      if (!parent) continue
      node.parent = parent
      parent.children.push(node)
    }
    return nodes
  }

  #checkSpan(node: Node): void {
    const { span, spec, parent } = node
    if (!/^[0-9a-f]{32}$/.test(span.traceId) || /^0+$/.test(span.traceId))
      this.#add(span, 'id.trace', 'expected 32 hexadecimal digits, not all zero')
    if (!/^[0-9a-f]{16}$/.test(span.spanId) || /^0+$/.test(span.spanId))
      this.#add(span, 'id.span', 'expected 16 hexadecimal digits, not all zero')
    const kind = spec.kind === 'server' ? 2 : 1
    if (span.kind !== kind) this.#add(span, 'kind', `expected ${spec.kind}, found kind ${span.kind}`)
    if (BigInt(span.endTimeUnixNano) < BigInt(span.startTimeUnixNano))
      this.#add(span, 'interval', 'expected the end after the start')
    if (spec.parent !== null) this.#checkParent(node, parent)
    this.#checkAttributes(span, spec.attributes, span.attributes, '')
    for (const event of span.events) {
      if (event.name === '') continue
      const eventSpec = Object.hasOwn(spec.events, event.name) ? spec.events[event.name] : undefined
      if (eventSpec) this.#checkAttributes(span, eventSpec.attributes, event.attributes, `${event.name}.`)
      else this.#add(span, 'event.unknown', `expected an event of the contract, found ${event.name}`)
    }
  }

  #checkParent(node: Node, parent: Node | null): void {
    const { span, spec } = node
    if (!parent) {
      this.#add(span, 'orphan', `expected a parent ${String(spec.parent)}, found none in the file`)
      return
    }
    const { name } = parent.span
    if (name !== spec.parent && !spec.orParents.includes(name)) {
      this.#add(span, 'parent', `expected ${[spec.parent, ...spec.orParents].join(' or ')}, found ${name}`)
    } else if (
      name !== spec.parent &&
      spec.parent === 'rag.retrieve' &&
      parent.children.some((child) => child.span.name === 'rag.retrieve')
    ) {
      this.#add(span, 'parent', `expected rag.retrieve, which the request has, found ${name}`)
    }
    if (spec.mayOutliveParent) return
    const starts = BigInt(span.startTimeUnixNano) - BigInt(parent.span.startTimeUnixNano)
    const ends = BigInt(parent.span.endTimeUnixNano) - BigInt(span.endTimeUnixNano)
    if (starts < 0n) this.#add(span, 'interval', `expected to start inside ${name}, found ${-starts} ns before it`)
    if (ends < 0n) this.#add(span, 'interval', `expected to end inside ${name}, found ${-ends} ns after it`)
  }

  #checkAttributes(
    span: OtlpSpan,
    specs: Readonly<Record<string, AttributeSpec>>,
    attributes: readonly OtlpAttribute[],
    prefix: string,
  ): void {
    for (const { key, value } of attributes) {
      const spec = attributeSpec(specs, key)
      if (spec) this.#checkValue(span, `${prefix}${key}`, spec, value)
      else if (OWN_NAMESPACES.test(key) && !isOpenInference(key))
        this.#add(span, 'attribute.unknown', `expected an attribute of the contract, found ${prefix}${key}`)
    }
  }

  #checkValue(span: OtlpSpan, name: string, spec: AttributeSpec, value: OtlpValue): void {
    const found = typeOf(value)
    if (found !== spec.type) {
      this.#add(span, 'attribute.type', `${name}: expected ${spec.type}, found ${found}`)
    } else if (spec.type === 'int' && spec.isSigned !== true && Number(value.intValue) < 0) {
      this.#add(span, 'attribute.value', `${name}: expected a count of at least 0, found ${String(value.intValue)}`)
    } else if (spec.oneOf && !spec.oneOf.includes(String(value.stringValue))) {
      this.#add(
        span,
        'attribute.value',
        `${name}: expected one of ${spec.oneOf.join(', ')}, found ${String(value.stringValue)}`,
      )
    }
  }

  #checkRequest(root: Node): void {
    const below = descendants(root)
    const byName = new Map<string, Node[]>()
    for (const node of below) byName.set(node.span.name, [...(byName.get(node.span.name) ?? []), node])
    for (const [name, nodes] of byName) {
      if (nodes[0]?.spec.single && nodes.length > 1)
        this.#add(root.span, 'span.repeated', `expected ${name} once, found ${nodes.length}`)
    }
    const row = this.#checkEnding(root)
    this.#checkPresence(root, below, row)
    this.#checkTree(root, byName, row)
    this.#checkCounts(root, byName, row)
  }

  /** Requires exactly one end event. Returns the row of the table of endings that fits it. */
  #checkEnding(root: Node): EndingRow | null {
    const { span, values } = root
    // Older Grafana downloads have no event names, so events cannot be validated.
    if (span.events.length > 0 && span.events.every(({ name }) => name === '')) return null
    const ends = span.events.filter((event) => event.name === 'request.departed' || event.name === 'request.aborted')
    const end = ends[0]
    if (!end || ends.length > 1) {
      this.#add(span, 'ending', `expected exactly one of request.departed and request.aborted, found ${ends.length}`)
      return null
    }
    if (!span.events.some((event) => event.name === 'request.arrived'))
      this.#add(span, 'event.missing', 'expected request.arrived')
    const reason = eventValue(end, 'reason')
    const status = numberOf(values.get('http.status_code'))
    const errorType = values.get('error.type')?.stringValue ?? null
    const candidates = ENDINGS.filter((row) => row.event === end.name && (row.reason ?? null) === reason)
    const row = candidates.find(
      (candidate) =>
        (candidate.statusCode === null ? matchesStatus(candidate, status) : candidate.statusCode === status) &&
        (candidate.errorType === ERROR_CODE ? errorType !== null : candidate.errorType === errorType) &&
        (candidate.spanStatus === 'error') === (span.status.code === 2),
    )
    if (!row) {
      const found = `${end.name}${reason === null ? '' : ` {${String(reason)}}`}, status ${status ?? 'none'}, error.type ${errorType ?? 'none'}, span status ${span.status.code === 2 ? 'error' : 'unset'}`
      this.#add(span, 'ending', `expected a row of the table of endings, found ${found}`)
    }
    return row ?? null
  }

  #checkPresence(root: Node, below: readonly Node[], row: EndingRow | null): void {
    const isServed = row?.ending === 'success'
    for (const node of [root, ...below]) {
      const isWhole = isServed && !node.values.has('error.type')
      for (const [name, spec] of Object.entries(node.spec.attributes)) {
        const isNeeded = spec.when === 'always' || (spec.when === 'completed' && isWhole)
        const hasNoStatus = row !== null && row.statusCode === null && row.sent.length === 0
        if (!isNeeded || (name === 'http.status_code' && hasNoStatus)) continue
        for (const key of [name, ...(spec.alias ?? [])]) {
          if (!node.values.has(key))
            this.#add(node.span, 'attribute.missing', `expected ${key} (${spec.when}), found none`)
        }
      }
    }
  }

  #checkTree(root: Node, byName: ReadonlyMap<string, readonly Node[]>, row: EndingRow | null): void {
    const has = (name: string) => byName.has(name)
    const needs = (name: string, why: string) => {
      if (!has(name)) this.#add(root.span, 'span.missing', `expected ${name}: ${why}`)
    }
    if (has('llm.prefill')) needs('tokenize.input', 'llm.prefill comes after it')
    if (has('llm.decode')) needs('llm.prefill', 'llm.decode comes after it')
    if (row?.ending !== 'success') return
    const retrieval = byName.get('rag.retrieve')?.[0]
    if (retrieval) {
      needs('embed.query', 'the retrieval is complete')
      needs('vector.search', 'the retrieval is complete')
      if (numberOf(retrieval.values.get('rag.docs.retrieved')) !== 0) needs('rerank', 'documents were found')
    }
    if (!isGeneration(root)) return
    const served = 'the request was served'
    needs('tokenize.input', served)
    needs('llm.prefill', served)
    needs('format.output', served)
    const isScored = root.values.get('llm.scored')?.boolValue === true
    if (isScored && has('llm.decode'))
      this.#add(root.span, 'span.unknown', 'expected no llm.decode: the prompt was only scored')
    if (!isScored) needs('llm.decode', served)
  }

  #checkCounts(root: Node, byName: ReadonlyMap<string, readonly Node[]>, row: EndingRow | null): void {
    const count = (node: Node | undefined, key: string) => numberOf(node?.values.get(key))
    const prefill = byName.get('llm.prefill')?.[0]
    const decode = byName.get('llm.decode')?.[0]
    const format = byName.get('format.output')?.[0]
    if (prefill) {
      const tokens = count(prefill, 'llm.tokens.in') ?? 0
      const sum = (count(prefill, 'llm.cache.hits') ?? 0) + (count(prefill, 'llm.cache.misses') ?? 0)
      if (sum !== tokens)
        this.#add(prefill.span, 'sum', `expected llm.cache.hits + misses = llm.tokens.in = ${tokens}, found ${sum}`)
    }
    if (decode) {
      const firsts = decode.span.events.filter((event) => event.name === 'llm.first_token').length
      if (firsts !== 1 && !decode.span.events.some(({ name }) => name === ''))
        this.#add(decode.span, 'event.missing', `expected llm.first_token exactly once, found ${firsts}`)
    }
    const isRefused = row !== null && row.isRefusal
    const isScored = root.values.get('llm.scored')?.boolValue === true
    const tokensOut = count(root, 'llm.tokens.out')
    if (!isGeneration(root) || isRefused || isScored) {
      for (const key of ['llm.tokens.in', 'llm.tokens.out']) {
        if (root.values.has(key))
          this.#add(root.span, 'attribute.unknown', `expected no ${key} on a request that generates nothing`)
      }
      return
    }
    if (row?.ending === 'success') {
      for (const key of ['llm.tokens.in', 'llm.tokens.out', 'llm.model']) {
        if (!root.values.has(key)) this.#add(root.span, 'attribute.missing', `expected ${key} (accepted), found none`)
      }
    }
    for (const node of [decode, format]) {
      const found = count(node, 'llm.tokens.out')
      if (node && found !== null && tokensOut !== null && found !== tokensOut) {
        this.#add(node.span, 'sum', `expected llm.tokens.out = ${tokensOut} as on ${ROOT_SPAN}, found ${found}`)
      }
    }
  }
}

const NO_SPAN = { traceId: '-', spanId: '-', name: '-' }

/** The spans below a span. A span that is its own ancestor is listed once. */
function descendants(node: Node, seen = new Set<Node>([node])): Node[] {
  return node.children.flatMap((child) => {
    if (seen.has(child)) return []
    seen.add(child)
    return [child, ...descendants(child, seen)]
  })
}

/** The row of an attribute or of an alias. */
function attributeSpec(specs: Readonly<Record<string, AttributeSpec>>, key: string): AttributeSpec | undefined {
  const own = Object.hasOwn(specs, key) ? specs[key] : undefined
  return own ?? Object.values(specs).find((spec) => spec.alias?.includes(key))
}

function typeOf(value: OtlpValue): string {
  if (value.stringValue !== undefined) return 'string'
  if (value.boolValue !== undefined) return 'boolean'
  if (value.intValue !== undefined) return 'int'
  if (value.doubleValue !== undefined) return Number.isFinite(value.doubleValue) ? 'double' : 'not a number'
  if (value.arrayValue)
    return value.arrayValue.values.every((item) => item.stringValue !== undefined) ? 'string[]' : 'a mixed array'
  return 'nothing'
}

function numberOf(value: OtlpValue | undefined): number | null {
  const plain = value ? plainValue(value) : null
  return typeof plain === 'number' ? plain : null
}

function eventValue(event: OtlpEvent, key: string): unknown {
  const found = event.attributes.find((attribute) => attribute.key === key)
  return found ? plainValue(found.value) : null
}

const matchesStatus = (row: EndingRow, status: number | null): boolean =>
  status === null ? row.sent.length === 0 : row.sent.includes(status)

const isGeneration = (root: Node): boolean => {
  const route = root.values.get('http.route')?.stringValue ?? ''
  const operation = root.values.get('gen_ai.operation.name')?.stringValue
  return operation === 'chat' || operation === 'text_completion' || /\/(completions|responses|messages)$/.test(route)
}
