/** The limits of a key: requests and tokens per minute, as token buckets, and concurrent requests. */
import { ApiError } from './errors.ts'
import type { KeyLimits } from './key-file.ts'

/** The share of its key's limits that a request has taken. */
interface Allowance {
  /** x-ratelimit-* headers as in OpenAI's API. */
  readonly headers: Readonly<Record<string, string>>
  /** Charges the tokens that the request used, once they are known. */
  charge(tokens: number): void
  /** The request is over. Later calls do nothing. */
  leave(): void
}

interface Usage {
  requests: Bucket | null
  tokens: Bucket | null
  numRunning: number
}

/** Fills by `limit` per minute, up to `limit`. Charges may bring it below zero; the next request then has to wait. */
class Bucket {
  readonly limit: number
  #level: number
  #atMs: number

  constructor(limit: number, nowMs: number) {
    this.limit = limit
    this.#level = limit
    this.#atMs = nowMs
  }

  level(nowMs: number): number {
    this.#level = Math.min(this.limit, this.#level + ((nowMs - this.#atMs) / 60_000) * this.limit)
    this.#atMs = nowMs
    return this.#level
  }

  take(amount: number, nowMs: number): void {
    this.#level = this.level(nowMs) - amount
  }

  /** Seconds until the level is at least `wanted`. */
  secondsUntil(wanted: number, nowMs: number): number {
    return (Math.max(0, wanted - this.level(nowMs)) / this.limit) * 60
  }
}

/** The limits of all keys. */
export class RateLimits {
  readonly #usage = new Map<string, Usage>()
  readonly #now: () => number

  constructor(now: () => number = () => performance.now()) {
    this.#now = now
  }

  /** Takes one request of a key's allowance. @throws ApiError 429 naming the limit, with Retry-After. */
  enter(keyId: string, limits: KeyLimits): Allowance {
    const nowMs = this.#now()
    const usage = this.#usageOf(keyId, limits, nowMs)
    const { requests, tokens } = usage
    if (limits.concurrency !== null && usage.numRunning >= limits.concurrency) {
      throw this.#refusal(`${limits.concurrency} requests at the same time`, 1, usage, nowMs)
    }
    if (requests !== null && requests.level(nowMs) < 1)
      throw this.#refusal(`${requests.limit} requests per minute`, requests.secondsUntil(1, nowMs), usage, nowMs)
    if (tokens !== null && tokens.level(nowMs) <= 0)
      throw this.#refusal(`${tokens.limit} tokens per minute`, tokens.secondsUntil(1, nowMs), usage, nowMs)
    requests?.take(1, nowMs)
    usage.numRunning++
    let isHere = true
    return {
      headers: headersOf(usage, nowMs),
      charge: (amount) => tokens?.take(amount, this.#now()),
      leave: () => {
        if (!isHere) return
        isHere = false
        usage.numRunning--
      },
    }
  }

  /** A limit that has changed in the key file starts with a full bucket. */
  #usageOf(keyId: string, limits: KeyLimits, nowMs: number): Usage {
    const usage = this.#usage.get(keyId) ?? { requests: null, tokens: null, numRunning: 0 }
    const bucketOf = (bucket: Bucket | null, limit: number | null): Bucket | null =>
      limit === null ? null : bucket?.limit === limit ? bucket : new Bucket(limit, nowMs)
    usage.requests = bucketOf(usage.requests, limits.requestsPerMinute)
    usage.tokens = bucketOf(usage.tokens, limits.tokensPerMinute)
    this.#usage.set(keyId, usage)
    return usage
  }

  #refusal(limit: string, seconds: number, usage: Usage, nowMs: number): ApiError {
    return new ApiError('rate_limit_exceeded', `this key may have ${limit}; try again later`, {
      headers: { ...headersOf(usage, nowMs), 'Retry-After': String(Math.max(1, Math.ceil(seconds))) },
    })
  }
}

function headersOf({ requests, tokens }: Usage, nowMs: number): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const [name, bucket] of [
    ['requests', requests],
    ['tokens', tokens],
  ] as const) {
    if (bucket === null) continue
    headers[`x-ratelimit-limit-${name}`] = String(bucket.limit)
    headers[`x-ratelimit-remaining-${name}`] = String(Math.max(0, Math.floor(bucket.level(nowMs))))
    headers[`x-ratelimit-reset-${name}`] = `${bucket.secondsUntil(bucket.limit, nowMs).toFixed(3)}s`
  }
  return headers
}
