/** The most recent traces in memory, limited by count and bytes. Each is visible to the key that made it. */
import { matches, type TraceQuery } from './trace-filter.ts'
import type { StoredTrace } from './stored-trace.ts'

/** The caller that reads traces. */
export interface TraceViewer {
  readonly keyId: string
  readonly isAdmin: boolean
}

interface TraceStoreOptions {
  readonly maxTraces: number
  readonly maxBytes?: number
  /** Traces of engine steps, which are counted separately so that they never replace requests. */
  readonly maxSteps?: number
}

const DEFAULT_LIMIT = 100

/** Keeps the most recent traces in memory, requests and engine steps separately. The oldest are dropped first. */
export class TraceStore {
  readonly #requests: Ring
  readonly #steps: Ring

  constructor(options: TraceStoreOptions) {
    const maxBytes = options.maxBytes ?? 64 * 1024 * 1024
    this.#requests = new Ring(options.maxTraces, maxBytes)
    this.#steps = new Ring(Math.min(options.maxSteps ?? 500, options.maxTraces), maxBytes / 4)
  }

  add(trace: StoredTrace): void {
    const ring = trace.requestId === null ? this.#steps : this.#requests
    ring.add(trace)
  }

  /** All trees of a trace id that the viewer may see, oldest first. */
  get(traceId: string, viewer: TraceViewer): readonly StoredTrace[] {
    return [...this.#requests.get(traceId), ...this.#steps.get(traceId)].filter((trace) => mayShow(trace, viewer))
  }

  /** Request traces, newest first. */
  list(query: TraceQuery, viewer: TraceViewer): readonly StoredTrace[] {
    const limit = query.limit ?? DEFAULT_LIMIT
    const found: StoredTrace[] = []
    for (const trace of this.#requests.newestFirst()) {
      if (found.length >= limit) break
      if (mayShow(trace, viewer) && matches(trace, query)) found.push(trace)
    }
    return found
  }

  get size(): number {
    return this.#requests.size + this.#steps.size
  }

  get bytes(): number {
    return this.#requests.bytes + this.#steps.bytes
  }
}

const mayShow = (trace: StoredTrace, viewer: TraceViewer): boolean => viewer.isAdmin || trace.keyId === viewer.keyId

interface Slot {
  readonly trace: StoredTrace
  readonly bytes: number
}

class Ring {
  bytes = 0
  readonly #maxCount: number
  readonly #maxBytes: number
  readonly #byTraceId = new Map<string, StoredTrace[]>()
  #slots: (Slot | null)[] = []
  /** Index of the oldest slot; earlier ones are gone. */
  #head = 0

  constructor(maxCount: number, maxBytes: number) {
    this.#maxCount = maxCount
    this.#maxBytes = maxBytes
  }

  get size(): number {
    return this.#slots.length - this.#head
  }

  add(trace: StoredTrace): void {
    if (this.#maxCount === 0) return
    const bytes = estimateBytes(trace)
    this.#slots.push({ trace, bytes })
    this.bytes += bytes
    const same = this.#byTraceId.get(trace.traceId)
    if (same) same.push(trace)
    else this.#byTraceId.set(trace.traceId, [trace])
    while (this.size > this.#maxCount || (this.bytes > this.#maxBytes && this.size > 1)) this.#evict()
  }

  get(traceId: string): readonly StoredTrace[] {
    return this.#byTraceId.get(traceId) ?? []
  }

  *newestFirst(): Generator<StoredTrace> {
    for (let i = this.#slots.length - 1; i >= this.#head; i--) {
      const slot = this.#slots[i]
      if (slot) yield slot.trace
    }
  }

  #evict(): void {
    const slot = this.#slots[this.#head]
    if (!slot) return
    this.#slots[this.#head++] = null
    this.bytes -= slot.bytes
    const rest = (this.#byTraceId.get(slot.trace.traceId) ?? []).filter((trace) => trace !== slot.trace)
    if (rest.length > 0) this.#byTraceId.set(slot.trace.traceId, rest)
    else this.#byTraceId.delete(slot.trace.traceId)
    // Shifting only once per ring length keeps eviction O(1).
    if (this.#head > this.#maxCount) {
      this.#slots = this.#slots.slice(this.#head)
      this.#head = 0
    }
  }
}

/** Approximate memory of a trace: objects by count, strings by length. */
function estimateBytes(trace: StoredTrace): number {
  let bytes = 1000 + trace.logLines.reduce((sum, line) => sum + line.length + 32, 0)
  for (const span of trace.spans) {
    bytes += 700 + 100 * span.events.length + 200 * span.links.length
    for (const key in span.attributes) {
      const value = span.attributes[key]
      bytes += 24 + (typeof value === 'string' ? value.length : 8)
    }
  }
  return bytes
}
