/** The state of the server, and the models that it serves. */
import type { EngineSubscriber } from '../engine/events.ts'
import type { Engine, EngineStats } from '../engine/request.ts'
import { type ModelUse, ServedModels, type ServedModelsOptions } from './served-models.ts'
import { ApiError } from './errors.ts'

type Phase = 'loading' | 'ready' | 'draining'

/** Defaults for a server with one loaded model, such as a test's. */
const PLAIN: Omit<ServedModelsOptions, 'subscribersOf'> = {
  idleMs: null,
  version: '',
  availableBytes: () => Infinity,
}

/** The phase of the server (loading, ready, draining) and its models. */
export class ServerState {
  readonly models: ServedModels
  #currentPhase: Phase = 'loading'
  /** Routes of the embedding and reranking models, by name. */
  readonly #others = new Map<string, string>()

  /** `subscribersOf`: the subscribers of a model's engine, from its first event on. */
  constructor(
    subscribersOf: (model: string) => readonly EngineSubscriber[],
    options: Partial<ServedModelsOptions> = {},
  ) {
    this.models = new ServedModels({ ...PLAIN, ...options, subscribersOf })
  }

  get phase(): Phase {
    return this.#currentPhase
  }

  /** The first loaded engine. */
  get engine(): Engine | null {
    return this.models.engines[0] ?? null
  }

  stats(): EngineStats {
    return this.models.stats()
  }

  /** The models of the start are loaded. Does nothing if the server is shutting down already. */
  ready(): void {
    if (this.#currentPhase === 'loading') this.#currentPhase = 'ready'
  }

  /** Names the route of a model that generation routes do not serve, for their errors. */
  alsoServes(model: string, route: string): void {
    this.#others.set(model, route)
  }

  drain(): void {
    this.#currentPhase = 'draining'
  }

  /**
   * The model of this name (without a name: the first). It is loaded, and stays loaded until it is released.
   * @throws ApiError 503 while the server starts or if the model cannot be loaded, 404 for an unknown name; the signal's reason.
   */
  async use(model: string | undefined, signal: AbortSignal): Promise<ModelUse> {
    if (this.#currentPhase === 'loading') throw new ApiError('loading', 'the model is loading')
    return this.models.use(model, signal, (name) => this.#others.get(name))
  }

  /** Uses a model for some work and releases it. @throws as use */
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
