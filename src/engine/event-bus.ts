/** Delivers the engine's lifecycle events to subscribers, synchronously and in order. A subscriber's error affects nobody else. */
import type { EngineEvent, EngineSubscriber, EngineWork } from './events.ts'

/** Delivers engine events to subscribers. @param onError receives what a subscriber throws or rejects with */
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
        // A plugin may have an `async onEvent`. An unhandled rejection would end the process.
        const later = subscriber.onEvent(event)
        if (later instanceof Promise) later.catch((error: unknown) => this.#onError(subscriber.name, error))
      } catch (error) {
        this.#onError(subscriber.name, error)
      }
    }
  }

  /** Runs work for a request in the context that a subscriber provides for it. */
  run<T>(work: EngineWork, fn: () => T): T {
    for (const subscriber of this.#subscribers) if (subscriber.run) return subscriber.run(work, fn)
    return fn()
  }
}
