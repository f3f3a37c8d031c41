/** From the addresses of engines elsewhere to an Engine over them. */
import type { Engine } from '../engine/request.ts'
import { ModelError } from '../engine/runner/runner.ts'
import { UpstreamCaller } from './caller.ts'
import { listModels } from './models.ts'
import { RemoteEngine } from './remote-engine.ts'
import { type Upstream, Upstreams } from './upstreams.ts'

interface RemoteEngineOptions {
  /** Bases of their APIs, with or without /v1. They serve the same model. */
  readonly urls: readonly string[]
  readonly apiKey: string | null
  /** null: the first model that the first engine lists. */
  readonly model: string | null
  /** Milliseconds without a byte after which a request has failed. */
  readonly idleTimeoutMs?: number
  readonly onError?: (where: string, error: unknown) => void
}

const PROBE_TIMEOUT_MS = 2_000
const IDLE_TIMEOUT_MS = 120_000

/**
 * Asks the engines for their models. Those that cannot be reached now are tried again later, as long as one answers.
 * @throws ModelError when none can be reached, or one does not serve the model asked for
 */
export async function createRemoteEngine(options: RemoteEngineOptions): Promise<Engine> {
  const addresses = options.urls.map((url) => addressOf(url, options.apiKey))
  const listed = await Promise.allSettled(
    addresses.map(({ base, headers }) => listModels(`${base}/v1/models`, headers)),
  )
  const failures = listed.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []))
  if (failures.length === addresses.length) throw failures[0]
  let wanted = options.model
  const upstreams: Upstream[] = []
  let maxModelLen = Infinity
  for (const [i, address] of addresses.entries()) {
    const { base } = address
    const result = listed[i]
    if (result === undefined || result.status === 'rejected') {
      options.onError?.(`engine at ${base}`, result?.reason)
      continue
    }
    const model = result.value.find(({ id }) => wanted === null || id === wanted)
    if (model === undefined) {
      const names = result.value.map(({ id }) => id).join(', ') || 'none'
      throw new ModelError(
        `engine at ${base}: expected model ${wanted ?? '(any)'}, found ${names}; name one with --served-model-name`,
      )
    }
    wanted = model.id
    maxModelLen = Math.min(maxModelLen, model.maxModelLen)
    upstreams.push({ ...address, model: model.id })
  }
  const name = wanted ?? ''
  // What could not be asked now serves the same model once it is back.
  for (const [i, address] of addresses.entries())
    if (listed[i]?.status === 'rejected') upstreams.push({ ...address, model: name })
  const probe = async ({ base, headers }: Upstream): Promise<boolean> => {
    try {
      const signal = AbortSignal.timeout(PROBE_TIMEOUT_MS)
      const response = await fetch(`${base}/health`, { headers, redirect: 'manual', signal })
      await response.body?.cancel()
      // Engines without that route are at least there.
      return response.ok || response.status === 404
    } catch {
      return false
    }
  }
  const pool = new Upstreams({ upstreams, probe })
  if (failures.length > 0) await pool.probeAll()
  const caller = new UpstreamCaller({
    upstreams: pool,
    maxModelLen,
    idleTimeoutMs: options.idleTimeoutMs ?? IDLE_TIMEOUT_MS,
  })
  return new RemoteEngine(name, maxModelLen, caller, (subscriber, error) =>
    options.onError?.(`subscriber ${subscriber}`, error),
  )
}

/** Where an engine is and what lets this server in. Credentials leave the address, which is written into traces and logs. */
function addressOf(given: string, apiKey: string | null): Omit<Upstream, 'model'> {
  const url = new URL(given)
  const { username, password } = url
  url.username = ''
  url.password = ''
  const base = url.href.replace(/\/+$/, '').replace(/\/v1$/, '').replace(/\/+$/, '')
  if (apiKey !== null) return { base, headers: { authorization: `Bearer ${apiKey}` } }
  if (username === '' && password === '') return { base, headers: {} }
  const pair = `${decoded(username)}:${decoded(password)}`
  return { base, headers: { authorization: `Basic ${Buffer.from(pair).toString('base64')}` } }
}

/** A part of an address as it was meant: a percent sign that encodes nothing stays one. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch {
    return part
  }
}
