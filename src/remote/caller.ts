/** Calls to engines elsewhere: which one a request goes to, its stream, and what a failure says of the engine. */
import { EngineError } from '../engine/request.ts'
import type { GenerationRequest, PromptInput } from '../engine/request.ts'
import { remoteRequest } from './request-wire.ts'
import { parseChunk, readResponseJson, readServerSentEvents, type RemoteChunk, remoteRefusal } from './response-wire.ts'
import type { Lease, Upstreams } from './upstreams.ts'

interface CallerOptions {
  readonly upstreams: Upstreams
  readonly headers: Readonly<Record<string, string>>
  readonly maxModelLen: number
  /** Milliseconds without a byte after which a request has failed. */
  readonly idleTimeoutMs: number
}

/** A call that was accepted: its chunks as they come. Ending the iteration, however, ends the call. */
export type OpenCall = AsyncGenerator<RemoteChunk, void, undefined>

/** Sends completion requests to upstream engines and reads their streams. */
export class UpstreamCaller {
  readonly #options: CallerOptions

  constructor(options: CallerOptions) {
    this.#options = options
  }

  /**
   * Sends a prompt to an upstream; to another one, once, where the first fails before its first byte. Resolves when it is accepted.
   * Throws EngineError, and what the signal was aborted with.
   */
  async open(request: GenerationRequest, prompt: PromptInput, signal: AbortSignal): Promise<OpenCall> {
    const { upstreams } = this.#options
    const text = textOf(prompt)
    const first = upstreams.lease(text, request.cacheSalt)
    if (first === null) throw new EngineError('upstream_error', 'no remote engine is configured')
    try {
      return await this.#send(request, prompt, first, signal)
    } catch (error) {
      if (signal.aborted || !isWorthRetrying(error)) throw error
      const second = upstreams.lease(text, request.cacheSalt, first.upstream)
      if (second === null) throw error
      return this.#send(request, prompt, second, signal)
    }
  }

  close(): void {
    this.#options.upstreams.close()
  }

  async #send(request: GenerationRequest, prompt: PromptInput, lease: Lease, signal: AbortSignal): Promise<OpenCall> {
    const { headers, maxModelLen } = this.#options
    const { base, model } = lease.upstream
    const { path, body } = remoteRequest(request, prompt, model, maxModelLen)
    const url = `${base}/v1/${path}`
    const tracked = request.onUpstreamCall?.(url)
    let isOver = false
    const end = (status: number | null, responseId: string | null, error: unknown) => {
      if (isOver) return
      isOver = true
      signal.removeEventListener('abort', onAbort)
      lease.release(error !== null && !signal.aborted && isFault(error))
      const isGone = signal.aborted && !(signal.reason instanceof EngineError)
      tracked?.end({ status, responseId, error: error === null ? null : isGone ? 'client_disconnect' : codeOf(error) })
    }
    // Also for a call that was accepted and that nobody reads, because another one of the request was refused.
    const onAbort = () => end(null, null, signal.reason)
    signal.addEventListener('abort', onAbort, { once: true })
    try {
      const send = () =>
        fetch(url, {
          method: 'POST',
          headers: {
            ...headers,
            ...tracked?.headers,
            'content-type': 'application/json',
            'x-request-id': request.requestId,
          },
          body: JSON.stringify(body),
          // Prompts go to the address that was configured and to no other.
          redirect: 'manual',
          signal,
        })
      const response = await this.#withIdleTimeout(tracked === undefined ? send() : tracked.run(send))
      if (!response.ok) {
        const answer = await readResponseJson(response).catch(() => null)
        throw remoteRefusal(response.status, answer, response.headers.get('retry-after'))
      }
      if (response.body === null) throw new EngineError('upstream_error', 'the remote engine answered without a body')
      return this.#chunks(response.body, (responseId, error) => end(response.status, responseId, error))
    } catch (error) {
      end(null, null, error)
      throw error
    }
  }

  async *#chunks(body: AsyncIterable<Uint8Array>, end: (responseId: string | null, error: unknown) => void): OpenCall {
    let responseId: string | null = null
    let failure: unknown = null
    try {
      const payloads = readServerSentEvents(body)
      while (true) {
        const next = await this.#withIdleTimeout(payloads.next())
        if (next.done === true) return
        const chunk = parseChunk(next.value)
        responseId ??= chunk.id
        yield chunk
      }
    } catch (error) {
      failure = error
      throw error
    } finally {
      end(responseId, failure)
    }
  }

  /** Fails with upstream_timeout when nothing happens for too long. The timer covers one wait: an answer, or the next chunk. */
  async #withIdleTimeout<T>(wait: Promise<T>): Promise<T> {
    const { idleTimeoutMs } = this.#options
    let timer: NodeJS.Timeout | undefined
    const timeout = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(
        () =>
          reject(new EngineError('upstream_timeout', `the remote engine sent nothing for ${idleTimeoutMs / 1000} s`)),
        idleTimeoutMs,
      )
    })
    try {
      return await Promise.race([wait, timeout])
    } finally {
      clearTimeout(timer)
    }
  }
}

/** What a prompt is known again by. */
function textOf(prompt: PromptInput): string {
  if ('text' in prompt) return prompt.text
  if ('ids' in prompt) return prompt.ids.join(' ')
  return JSON.stringify([prompt.tools ?? [], prompt.messages])
}

const codeOf = (error: unknown): string => (error instanceof EngineError ? error.code : 'upstream_error')

/** The upstream's fault, rather than the request's. */
const isFault = (error: unknown): boolean =>
  !(error instanceof EngineError) || error.code === 'upstream_error' || error.code === 'upstream_timeout'

/** Another engine may do better: this one failed, or has too much to do. Not where it kept silent: the client has waited long enough. */
const isWorthRetrying = (error: unknown): boolean =>
  !(error instanceof EngineError) || error.code === 'upstream_error' || error.code === 'queue_full'
