/**
 * The engines to which a remote engine can send requests: which are healthy, which is the least busy, and which has seen the beginning of a prompt
 * before, so that its prefix cache can serve it.
 */
import { createHash } from 'node:crypto'
import type { EngineStats } from '../engine/request.ts'

export interface Upstream {
  /** Base of its API, without /v1 and without credentials. */
  readonly base: string
  /** Headers with credentials. */
  readonly headers: Readonly<Record<string, string>>
  /** The model's name at this engine. */
  readonly model: string
}

interface UpstreamsOptions {
  readonly upstreams: readonly Upstream[]
  /** Whether an engine takes requests; never rejects. */
  readonly probe: (upstream: Upstream) => Promise<boolean>
  readonly probeEveryMs?: number
  readonly now?: () => number
}

/** The result of a call for its upstream: success, a fault, or unknown if the call was ended by this side. */
export type CallOutcome = 'ok' | 'fault' | 'unknown'

/** A request's stay at an upstream. */
export interface Lease {
  readonly upstream: Upstream
  /** Idempotent. */
  release(outcome: CallOutcome): void
}

const PROBE_EVERY_MS = 5_000
/** Faults in a row after which an upstream gets no requests for a while. */
const FAULTS_TO_OPEN = 3
const OPEN_MS = 5_000
const MAX_OPEN_MS = 60_000
/** How many more requests than the least busy upstream one may have that knows the beginning of a prompt. */
const AFFINITY_SLACK = 4
/** Characters of a prompt that are one link of its chain of hashes: about a hundred tokens. */
const LINK_CHARACTERS = 512
const MAX_LINKS = 64
/** Links remembered, over all prompts; the oldest go first. */
const MAX_REMEMBERED = 16_384

interface Member {
  readonly upstream: Upstream
  isHealthy: boolean
  numRunning: number
  numFaults: number
  openMs: number
  openUntilMs: number
}

/** Upstream engines with their health. `lease` prefers the engine that served the same prompt prefix. */
export class Upstreams {
  readonly #members: readonly Member[]
  readonly #now: () => number
  readonly #timer: NodeJS.Timeout | null
  readonly #probe: UpstreamsOptions['probe']
  /** Where the prompts with this beginning went last, oldest first. */
  readonly #seen = new Map<string, Member>()

  constructor({ upstreams, probe, probeEveryMs = PROBE_EVERY_MS, now = () => performance.now() }: UpstreamsOptions) {
    this.#members = upstreams.map((upstream) => ({
      upstream,
      isHealthy: true,
      numRunning: 0,
      numFaults: 0,
      openMs: OPEN_MS,
      openUntilMs: 0,
    }))
    this.#now = now
    this.#probe = probe
    // A single engine is always tried: skipping it would help no one.
    this.#timer = upstreams.length > 1 ? setInterval(() => void this.probeAll(), probeEveryMs) : null
    this.#timer?.unref()
  }

  /** The current state of each upstream. */
  states(): NonNullable<EngineStats['upstreams']> {
    return this.#members.map((member) => ({
      base: member.upstream.base,
      isTaking: member.isHealthy && member.openUntilMs <= this.#now(),
      numRunning: member.numRunning,
    }))
  }

  async probeAll(): Promise<void> {
    await Promise.all(
      this.#members.map(async (member) => {
        const wasHealthy = member.isHealthy
        member.isHealthy = await this.#probe(member.upstream)
        // A restarted process is not responsible for earlier faults.
        if (member.isHealthy && !wasHealthy) closeCircuit(member)
      }),
    )
  }

  /**
   * Chooses the upstream that knows the longest beginning of a prompt, unless it is much busier than the least busy one. Unhealthy upstreams are
   * used only if there is no other.
   * @param salt separates tenants @param not an upstream that has just failed the request
   */
  lease(prompt: string, salt: string, not: Upstream | null = null): Lease | null {
    const others = this.#members.filter(({ upstream }) => upstream !== not)
    const well = others.filter((member) => member.isHealthy && this.#isTaking(member))
    const candidates = well.length > 0 ? well : others
    if (candidates.length === 0) return null
    const links = this.#members.length > 1 ? linksOf(prompt, salt) : []
    const least = candidates.reduce((a, b) => (b.numRunning < a.numRunning ? b : a))
    const known = links.map((link) => this.#seen.get(link)).findLast((member) => member !== undefined)
    const chosen =
      known !== undefined && candidates.includes(known) && known.numRunning <= least.numRunning + AFFINITY_SLACK
        ? known
        : least
    for (const link of links) this.#remember(link, chosen)
    chosen.numRunning++
    let isOver = false
    return {
      upstream: chosen.upstream,
      release: (outcome) => {
        if (isOver) return
        isOver = true
        chosen.numRunning--
        this.#judge(chosen, outcome)
      },
    }
  }

  close(): void {
    if (this.#timer !== null) clearInterval(this.#timer)
  }

  /** Whether its circuit admits a request: after the pause, one at a time until one succeeds. */
  #isTaking({ numFaults, openUntilMs, numRunning }: Member): boolean {
    if (numFaults < FAULTS_TO_OPEN) return true
    return openUntilMs <= this.#now() && numRunning === 0
  }

  /** Opens the circuit after too many faults in a row, each time for longer, until a success closes it. */
  #judge(member: Member, outcome: CallOutcome): void {
    if (outcome === 'unknown') return
    if (outcome === 'ok') {
      closeCircuit(member)
      return
    }
    member.numFaults++
    // Other requests that were running there fail at the same time and for the same reason. They do not count again.
    if (member.numFaults < FAULTS_TO_OPEN || member.openUntilMs > this.#now()) return
    member.openUntilMs = this.#now() + member.openMs
    member.openMs = Math.min(member.openMs * 2, MAX_OPEN_MS)
  }

  #remember(link: string, member: Member): void {
    this.#seen.delete(link)
    this.#seen.set(link, member)
    if (this.#seen.size <= MAX_REMEMBERED) return
    const [oldest] = this.#seen.keys()
    if (oldest !== undefined) this.#seen.delete(oldest)
  }
}

function closeCircuit(member: Member): void {
  member.numFaults = 0
  member.openMs = OPEN_MS
  member.openUntilMs = 0
}

/** The chain of a prompt's beginnings, as the prefix cache chains its blocks: each link is the hash of the one before and its own text. */
function linksOf(prompt: string, salt: string): string[] {
  const links: string[] = []
  let parent = salt
  for (let at = 0; at + LINK_CHARACTERS <= prompt.length && links.length < MAX_LINKS; at += LINK_CHARACTERS) {
    parent = createHash('sha256')
      .update(parent)
      .update(prompt.slice(at, at + LINK_CHARACTERS))
      .digest('base64')
    links.push(parent)
  }
  return links
}
