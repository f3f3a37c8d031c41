/** The engine's lifecycle events to its subscribers: synchronously, in order. What a subscriber throws, or rejects with later, is its own. */
import type { EngineEvent, EngineSubscriber, EngineWork } from './events.ts'

/** Delivers engine events to subscribers. @param onError gets what a subscriber throws or rejects with */
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
        // An `async onEvent` is legal JavaScript, and a rejection that nobody handles would end the process.
        const later = subscriber.onEvent(event)
        if (later instanceof Promise) later.catch((error: unknown) => this.#onError(subscriber.name, error))
      } catch (error) {
        this.#onError(subscriber.name, error)
      }
    }
  }

  /** Runs work for a request in the context that a subscriber keeps for it. */
  run<T>(work: EngineWork, fn: () => T): T {
    for (const subscriber of this.#subscribers) if (subscriber.run) return subscriber.run(work, fn)
    return fn()
  }
}
