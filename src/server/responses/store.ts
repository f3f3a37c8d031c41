/**
 * Responses that are stored for later turns: in memory, limited in number, bytes and age, each visible to the key that made it. A request
 * that names a dropped response gets a 404.
 */
import type { ChatMessageFields } from '../wire.ts'
import type { ResponseObject } from './shape.ts'

export interface StoredResponse {
  readonly response: ResponseObject
  /** The conversation including this response, without instructions, which apply to one request only. */
  readonly messages: readonly ChatMessageFields[]
  /** The caller's id of the conversation, else the id of its first response. */
  readonly conversationId: string
}

const MAX_RESPONSES = 1000
const MAX_BYTES = 64 * 2 ** 20
/** OpenAI keeps responses for 30 days; a process keeps them for a day. */
const MAX_AGE_MS = 24 * 3600 * 1000

interface Kept {
  readonly entry: StoredResponse
  readonly numBytes: number
  readonly atMs: number
}

/** Keeps responses by key and id. The oldest are dropped first. */
export class ResponseStore {
  /** In order of age, the oldest first. */
  readonly #kept = new Map<string, Kept>()
  #numBytes = 0

  /** Keeps a response, unless it alone exceeds the limit of bytes. */
  put(keyId: string, entry: StoredResponse): void {
    // Two bytes per character, which is the most that the JavaScript engine uses.
    const numBytes = 2 * JSON.stringify(entry).length
    if (numBytes > MAX_BYTES) return
    const name = nameOf(keyId, entry.response.id)
    this.#remove(name)
    this.#kept.set(name, { entry, numBytes, atMs: Date.now() })
    this.#numBytes += numBytes
    this.#expire()
  }

  get(keyId: string, id: string): StoredResponse | null {
    this.#expire()
    return this.#kept.get(nameOf(keyId, id))?.entry ?? null
  }

  delete(keyId: string, id: string): void {
    this.#remove(nameOf(keyId, id))
  }

  #remove(name: string): void {
    this.#numBytes -= this.#kept.get(name)?.numBytes ?? 0
    this.#kept.delete(name)
  }

  #expire(): void {
    for (const [name, { atMs }] of this.#kept) {
      const fits = this.#kept.size <= MAX_RESPONSES && this.#numBytes <= MAX_BYTES
      if (fits && atMs > Date.now() - MAX_AGE_MS) return
      this.#remove(name)
    }
  }
}

const nameOf = (keyId: string, id: string): string => `${keyId}\n${id}`
