/** Calls remote engines: chooses one for each request, reads its stream, and reports failures to its circuit. */
import { EngineError } from '../engine/request.ts'
import { untilLate } from '../promises.ts'
import type { GenerationRequest, PromptInput } from '../engine/request.ts'
import { remoteRequest } from './request-wire.ts'
import {
  numTokensOf,
  readAnswerChunks,
  readResponseJson,
  readWholeAnswer,
  type RemoteChoice,
  type RemoteChunk,
  remoteRefusal,
  upstreamError,
} from './response-wire.ts'
import type { CallOutcome, Lease, Upstreams } from './upstreams.ts'

interface CallerOptions {
  readonly upstreams: Upstreams
  readonly maxModelLen: number
  /** Milliseconds without a byte after which a request has failed. */
  readonly idleTimeoutMs: number
}

/** Reason for aborting the calls of a request at its deadline. Unlike a client that disconnects, it may be the fault of a silent engine. */
export class DeadlinePassed extends EngineError {
  constructor() {
    super('deadline', 'the request took longer than its time limit')
  }
}

/** The chunks of an accepted call. Ending the iteration in any way ends the call. */
export type OpenCall = AsyncGenerator<RemoteChunk, void, undefined>

/** Sends completion requests to upstream engines and reads their streams. */
export class UpstreamCaller {
  readonly #options: CallerOptions

  constructor(options: CallerOptions) {
    this.#options = options
  }

  /**
   * Sends a prompt to an upstream, and once more to another one if the first fails before the first piece of its answer. Resolves when the call is
   * accepted.
   * @throws EngineError and the signal's reason
   */
  async open(request: GenerationRequest, prompt: PromptInput, signal: AbortSignal): Promise<OpenCall> {
    const { upstreams } = this.#options
    const text = textOf(prompt)
    const first = upstreams.lease(text, request.cacheSalt)
    if (first === null) throw upstreamError('no remote engine is configured')
    const again = (error: unknown): Promise<OpenCall> => {
      const isHopeless = signal.aborted || !isWorthRetrying(error)
      const second = isHopeless ? null : upstreams.lease(text, request.cacheSalt, first.upstream)
      if (second === null) throw error
      return this.#send(request, prompt, second, signal)
    }
    let call: OpenCall
    try {
      call = await this.#send(request, prompt, first, signal)
    } catch (error) {
      return again(error)
    }
    return replacedBeforeOutput(call, again)
  }

  /** The engines that calls go to. */
  states(): ReturnType<Upstreams['states']> {
    return this.#options.upstreams.states()
  }

  close(): void {
    this.#options.upstreams.close()
  }

  async #send(request: GenerationRequest, prompt: PromptInput, lease: Lease, signal: AbortSignal): Promise<OpenCall> {
    const { maxModelLen } = this.#options
    const { base, headers, model } = lease.upstream
    const { path, body } = remoteRequest(request, prompt, model, maxModelLen)
    const url = `${base}/v1/${path}`
    const tracked = request.onUpstreamCall?.(url)
    let isOver = false
    let isSilent = true
    const end = (status: number | null, responseId: string | null, error: unknown, outcome: CallOutcome) => {
      if (isOver) return
      isOver = true
      signal.removeEventListener('abort', onAbort)
      // A call that was ended here is no evidence against the engine, unless the deadline passed before it had sent anything.
      const isTooSlow = signal.reason instanceof DeadlinePassed && isSilent
      lease.release(signal.aborted ? (isTooSlow ? 'fault' : 'unknown') : outcome)
      const isGone = signal.aborted && !(signal.reason instanceof EngineError)
      tracked?.end({ status, responseId, error: error === null ? null : isGone ? 'client_disconnect' : codeOf(error) })
    }
    // Needed for an accepted call that is never read, because another call of the request was refused.
    const onAbort = () => end(null, null, signal.reason, 'unknown')
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
          // Prompts are sent only to the configured address.
          redirect: 'manual',
          signal,
        })
      const response = await this.#withIdleTimeout(tracked === undefined ? send() : tracked.run(send))
      if (!response.ok) {
        const answer = await readResponseJson(response).catch(() => null)
        throw remoteRefusal(response.status, answer, response.headers.get('retry-after'))
      }
      if (response.body === null) throw upstreamError('the remote engine answered without a body')
      const whole = await this.#withIdleTimeout(readWholeAnswer(response))
      // The stream is read only after all calls of the request are accepted, so it is unknown whether anything has arrived yet.
      isSilent = false
      const onSilence = (value: boolean) => {
        isSilent = value
      }
      const chunks = whole === null ? readAnswerChunks(this.#watched(response.body, onSilence)) : only(whole)
      return this.#chunks(chunks, request.n, (responseId, error, outcome) =>
        end(response.status, responseId, error, outcome),
      )
    } catch (error) {
      end(null, null, error, outcomeOf(error))
      throw error
    }
  }

  async *#chunks(
    chunks: AsyncIterable<RemoteChunk>,
    numChoices: number,
    end: (responseId: string | null, error: unknown, outcome: CallOutcome) => void,
  ): OpenCall {
    let responseId: string | null = null
    let failure: unknown = null
    // The outcome if the reader leaves before the end.
    let outcome: CallOutcome = 'unknown'
    const finished = new Set<number>()
    try {
      for await (const chunk of chunks) {
        responseId ??= chunk.id
        for (const { index, finishReason } of chunk.choices) if (finishReason !== null) finished.add(index)
        yield chunk
      }
      // Finish reasons show that an answer is complete. Some servers omit [DONE].
      if (finished.size < numChoices) {
        throw upstreamError('the remote engine ended its stream without finishing every choice')
      }
      outcome = 'ok'
    } catch (error) {
      failure = error
      outcome = outcomeOf(error)
      throw error
    } finally {
      end(responseId, failure, outcome)
    }
  }

  /** A body with a time limit for each piece. Keep-alive comments count as pieces; some servers send them while a request waits. */
  async *#watched(
    body: AsyncIterable<Uint8Array>,
    onSilence: (isSilent: boolean) => void,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    onSilence(true)
    const pieces = body[Symbol.asyncIterator]()
    try {
      while (true) {
        const next = await this.#withIdleTimeout(pieces.next())
        if (next.done === true) return
        onSilence(false)
        yield next.value
      }
    } finally {
      // Not awaited, because a silent engine would not answer. The body ends with the call.
      pieces.return?.().catch(() => {})
    }
  }

  /** Fails with upstream_timeout if a single wait, for an answer or its next piece, takes too long. */
  #withIdleTimeout<T>(wait: Promise<T>): Promise<T> {
    const { idleTimeoutMs } = this.#options
    const message = `the remote engine sent nothing for ${idleTimeoutMs / 1000} s`
    return untilLate(wait, idleTimeoutMs, () => new EngineError('upstream_timeout', message))
  }
}

/**
 * The chunks of a call, or of a second call if the first fails or ends before a chunk with output for the client. Earlier chunks are dropped,
 * except for their usage. The usage of a failed call is not the client's.
 */
async function* replacedBeforeOutput(call: OpenCall, again: (error: unknown) => Promise<OpenCall>): OpenCall {
  let hasOutput = false
  let usage: RemoteChunk['usage'] = null
  try {
    for await (const chunk of call) {
      hasOutput ||= chunk.choices.some(isOutput)
      usage = chunk.usage ?? usage
      if (hasOutput) yield { ...chunk, usage }
    }
  } catch (error) {
    if (hasOutput) throw error
    yield* await again(error)
  }
}

/** A server's first chunk often contains only the role. */
const isOutput = (choice: RemoteChoice): boolean => numTokensOf(choice) > 0 || choice.finishReason !== null

async function* only<T>(value: T): AsyncGenerator<T, void, undefined> {
  yield value
}

/** The text by which upstreams recognise a prompt. */
function textOf(prompt: PromptInput): string {
  if ('text' in prompt) return prompt.text
  if ('ids' in prompt) return prompt.ids.join(' ')
  return JSON.stringify([prompt.tools ?? [], prompt.messages])
}

const codeOf = (error: unknown): string => (error instanceof EngineError ? error.code : 'upstream_error')

/** Whether an error is the upstream's fault. An upstream that refuses a request is healthy. */
const outcomeOf = (error: unknown): CallOutcome =>
  !(error instanceof EngineError) || error.code === 'upstream_error' || error.code === 'upstream_timeout'
    ? 'fault'
    : 'ok'

/** Whether another engine may succeed: this one failed or is overloaded. After a timeout the client has waited long enough. */
const isWorthRetrying = (error: unknown): boolean =>
  !(error instanceof EngineError) || error.code === 'upstream_error' || error.code === 'queue_full'
