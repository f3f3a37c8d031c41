/** Where the server is in its life, and the models that it serves. */
import type { EngineSubscriber } from '../engine/events.ts'
import type { Engine, EngineStats } from '../engine/request.ts'
import { type ReadyModel, type ModelUse, ServedModels, type ServedModelsOptions } from './served-models.ts'
import { ApiError } from './errors.ts'

type Phase = 'loading' | 'ready' | 'draining'

/** What a server with one model that is given loaded, such as a test's, needs not say. */
const PLAIN: Omit<ServedModelsOptions, 'subscribersOf'> = {
  idleMs: null,
  version: '',
  availableBytes: () => Infinity,
}

/** The phase of the server (loading, ready, draining) and its models. */
export class ServerState {
  readonly models: ServedModels
  private currentPhase: Phase = 'loading'
  /** Models beside the engines': names to the route that uses them. */
  private readonly others = new Map<string, string>()

  /** `subscribersOf`: who hears every event of a model's engine from the first on. */
  constructor(
    subscribersOf: (model: string) => readonly EngineSubscriber[],
    options: Partial<ServedModelsOptions> = {},
  ) {
    this.models = new ServedModels({ ...PLAIN, ...options, subscribersOf })
  }

  get phase(): Phase {
    return this.currentPhase
  }

  /** The first engine that is loaded, for what describes one only. */
  get engine(): Engine | null {
    return this.models.engines[0] ?? null
  }

  stats(): EngineStats {
    return this.models.stats()
  }

  /** The models that are loaded at the start are. A shutdown that came first stays a shutdown. */
  ready(): void {
    if (this.currentPhase === 'loading') this.currentPhase = 'ready'
  }

  /** Serves one model that is loaded already. */
  serve(engine: Engine, beside: Partial<Omit<ReadyModel, 'engine'>> = {}): void {
    this.models.add({ engine, samplingDefaults: {}, promptTemplate: null, ...beside })
    this.ready()
  }

  /** This model is served by another route; the error says which. */
  alsoServes(model: string, route: string): void {
    this.others.set(model, route)
  }

  drain(): void {
    this.currentPhase = 'draining'
  }

  /**
   * The model of this name (no name: the first), loaded, and kept so until it is released.
   * @throws ApiError 503 while the server is starting or where the model cannot be loaded, 404 for another name; the signal's reason.
   */
  async use(model: string | undefined, signal: AbortSignal): Promise<ModelUse> {
    if (this.currentPhase === 'loading') throw new ApiError('loading', 'the model is loading')
    return this.models.use(model, signal, (name) => this.others.get(name))
  }

  /** Does something with a model and releases it. @throws likewise */
  async withModel<T>(
    model: string | undefined,
    signal: AbortSignal,
    work: (use: ModelUse) => T | Promise<T>,
  ): Promise<T> {
    const use = await this.use(model, signal)
    try {
      return await work(use)
    } finally {
      use.release()
    }
  }
}
