/** The engine's lifecycle events to its subscribers: synchronously, in order, each in try/catch. */
import type { EngineEvent, EngineSubscriber } from './events.ts'

export class EventBus {
  readonly #subscribers = new Set<EngineSubscriber>()
  readonly #onError: (subscriber: string, error: unknown) => void

  constructor(onError: (subscriber: string, error: unknown) => void) {
    this.#onError = onError
  }

  subscribe(subscriber: EngineSubscriber): () => void {
    this.#subscribers.add(subscriber)
    return () => this.#subscribers.delete(subscriber)
  }

  publish(event: EngineEvent): void {
    for (const subscriber of this.#subscribers) {
      try {
        subscriber.onEvent(event)
      } catch (error) {
        this.#onError(subscriber.name, error)
      }
    }
  }
}
