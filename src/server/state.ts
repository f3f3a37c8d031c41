/** Where the server is in its life, and the engine once there is one. */
import { createHash } from 'node:crypto'
import type { EngineSubscriber } from '../engine/events.ts'
import type { Engine, EngineStats } from '../engine/request.ts'
import { ApiError } from './errors.ts'
import type { SamplingDefaults } from '../engine/sampling-defaults.ts'

export type Phase = 'loading' | 'ready' | 'draining'

const NO_STATS: EngineStats = {
  numRunning: 0,
  numWaiting: 0,
  numWaitingTokens: 0,
  numBlocks: 0,
  numFreeBlocks: 0,
  prefixCacheQueries: 0,
  prefixCacheHits: 0,
  numPreemptions: 0,
  promptTokens: 0,
  generationTokens: 0,
  numDraftTokens: 0,
  numAcceptedTokens: 0,
}

export class ServerState {
  private currentPhase: Phase = 'loading'
  private current: Engine | null = null
  private defaults: SamplingDefaults = {}
  private served = ''
  /** Models beside the engine's: names to the route that uses them. */
  private readonly others = new Map<string, string>()
  private readonly subscribers: readonly EngineSubscriber[]

  /** `subscribers` hear every engine event from the first on. */
  constructor(subscribers: readonly EngineSubscriber[]) {
    this.subscribers = subscribers
  }

  get phase(): Phase {
    return this.currentPhase
  }

  get engine(): Engine | null {
    return this.current
  }

  /** Of the served model's generation_config.json. */
  get samplingDefaults(): SamplingDefaults {
    return this.defaults
  }

  /** Of what answers: changes with the model, how it is computed, and the version of this program. */
  get fingerprint(): string {
    return this.served
  }

  stats(): EngineStats {
    return this.current?.stats() ?? NO_STATS
  }

  /** The model is loaded. A shutdown that came first stays a shutdown. */
  ready(engine: Engine, samplingDefaults: SamplingDefaults = {}, version = ''): void {
    this.current = engine
    const { device, quantization } = engine.modelInfo ?? {}
    const what = JSON.stringify([version, engine.modelName, device?.kind, device?.adapter, quantization])
    this.served = `fp_${createHash('sha256').update(what).digest('hex').slice(0, 10)}`
    this.defaults = samplingDefaults
    for (const subscriber of this.subscribers) engine.subscribe(subscriber)
    if (this.currentPhase === 'loading') this.currentPhase = 'ready'
  }

  /** Another model is served by this route: a request that mistakes it for the engine's is told so. */
  alsoServes(model: string, route: string): void {
    this.others.set(model, route)
  }

  drain(): void {
    this.currentPhase = 'draining'
  }

  /** @throws ApiError 503 while loading. */
  requireEngine(): Engine {
    if (this.current) return this.current
    throw new ApiError('loading', 'the model is loading')
  }

  /**
   * The engine, when it serves the model of this name (no name: whatever it serves).
   * @throws ApiError 404 for another model.
   */
  engineFor(model: string | undefined): Engine {
    const engine = this.requireEngine()
    if (model !== undefined && model !== engine.modelName) {
      const route = this.others.get(model)
      const hint = route === undefined ? `GET /v1/models lists "${engine.modelName}"` : `it is a model of POST ${route}`
      throw new ApiError('model_not_found', `model: not served here; ${hint}`, { param: 'model' })
    }
    return engine
  }
}
