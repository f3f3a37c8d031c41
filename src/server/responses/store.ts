/**
 * Responses that were kept for later turns: in memory, bounded in number, in bytes and in time, each for the key that made it. What is
 * pushed out is gone, and a request that names it is a 404 that says so.
 */
import type { ChatMessageFields } from '../wire.ts'
import type { ResponseObject } from './shape.ts'

export interface StoredResponse {
  readonly response: ResponseObject
  /** The conversation up to and with this response, without instructions, which apply to one request only. */
  readonly messages: readonly ChatMessageFields[]
  /** What its requests have in common: the caller's id of it, else the id of its first response. */
  readonly conversationId: string
}

interface ResponseStore {
  /** Keeps a response, if it fits the bounds at all. */
  put(keyId: string, entry: StoredResponse): void
  get(keyId: string, id: string): StoredResponse | null
  delete(keyId: string, id: string): boolean
}

interface ResponseStoreLimits {
  readonly maxResponses: number
  readonly maxBytes: number
  readonly maxAgeMs: number
}

/** OpenAI keeps responses for 30 days; a process keeps them for a day. */
const DEFAULT_LIMITS: ResponseStoreLimits = {
  maxResponses: 1000,
  maxBytes: 64 * 2 ** 20,
  maxAgeMs: 24 * 3600 * 1000,
}

interface Kept {
  readonly entry: StoredResponse
  readonly numBytes: number
  readonly atMs: number
}

/** Creates the store. @param now milliseconds since 1970 */
export function createResponseStore(
  limits: ResponseStoreLimits = DEFAULT_LIMITS,
  now: () => number = Date.now,
): ResponseStore {
  // In order of age: the first entry is the oldest.
  const kept = new Map<string, Kept>()
  let numBytes = 0

  const nameOf = (keyId: string, id: string) => `${keyId}\n${id}`
  const remove = (name: string): boolean => {
    const found = kept.get(name)
    if (found === undefined) return false
    kept.delete(name)
    numBytes -= found.numBytes
    return true
  }
  const expire = () => {
    const oldest = now() - limits.maxAgeMs
    for (const [name, { atMs }] of kept) {
      if (atMs > oldest && kept.size <= limits.maxResponses && numBytes <= limits.maxBytes) return
      remove(name)
    }
  }

  return {
    put(keyId, entry) {
      // Two bytes per character, as the engine keeps them at most.
      const size = 2 * JSON.stringify(entry).length
      if (size > limits.maxBytes) return
      const name = nameOf(keyId, entry.response.id)
      remove(name)
      kept.set(name, { entry, numBytes: size, atMs: now() })
      numBytes += size
      expire()
    },
    get(keyId, id) {
      expire()
      return kept.get(nameOf(keyId, id))?.entry ?? null
    },
    delete(keyId, id) {
      expire()
      return remove(nameOf(keyId, id))
    },
  }
}
