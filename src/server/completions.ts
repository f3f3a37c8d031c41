/** POST /v1/completions and /v1/chat/completions, and what all generation routes share: a body becomes a job, which the pipeline runs. */
import type { Context } from 'hono'
import type { z } from 'zod'
import type { RagService } from '../rag/service.ts'
import { type AppEnv, onceAnswered, placeOf } from './env.ts'
import { chatJob, completionJob, type JobContext } from './job.ts'
import { chatShape } from './chat-shape.ts'
import { completionShape } from './completion-shape.ts'
import type { KeyPlaces } from './key-places.ts'
import type { GenerationCall } from './output.ts'
import { readJson } from './body.ts'
import { inputContent } from './captured-content.ts'
import { invalidRequest, whileWanted } from './errors.ts'
import { runPipeline } from './pipeline.ts'
import { handlersOf } from './router.ts'
import type { ServerState } from './state.ts'
import { parseBody } from './validation.ts'
import { chatRequest, completionRequest } from './wire.ts'
import { addWarning } from './warnings.ts'

export interface GenerationParts {
  readonly state: ServerState
  readonly rag: RagService | null
  /** null: all requests have the same key. */
  readonly places: KeyPlaces | null
  /** 0: none. */
  readonly requestTimeoutMs: number
  readonly defaultSeed: number | null
}

/** Handlers of `/v1/completions` and `/v1/chat/completions`. */
export function generationHandlers(parts: GenerationParts) {
  return handlersOf({
    createCompletion: (c) =>
      handleGeneration(
        c,
        parts,
        completionRequest,
        (body, context) => {
          const job = completionJob(body, context)
          return { job, shape: (echoed) => completionShape(job, echoed) }
        },
        requirePrompt,
      ),
    createChatCompletion: (c) =>
      handleGeneration(c, parts, chatRequest, (body, context) => {
        const job = chatJob(body, context)
        return { job, shape: () => chatShape(job) }
      }),
  })
}

/** Names the right route to a client that sent a conversation. The schema would only report a missing prompt. */
function requirePrompt(body: unknown): unknown {
  if (typeof body === 'object' && body !== null && 'messages' in body && !('prompt' in body)) {
    throw invalidRequest('prompt: expected one, found messages; POST /v1/chat/completions takes those', 'prompt')
  }
  return body
}

/** metadata.conversation_id, or metadata.session_id: the callers of all of these APIs may set them. */
function conversationOf(body: unknown): unknown {
  const metadata = typeof body === 'object' && body !== null && 'metadata' in body ? body.metadata : null
  if (typeof metadata !== 'object' || metadata === null) return undefined
  if ('conversation_id' in metadata) return metadata.conversation_id
  return 'session_id' in metadata ? metadata.session_id : undefined
}

/**
 * One generation, from its body to its response.
 * @param toCall makes the job; throws ApiError. @param prepare changes the body before it is validated.
 */
export async function handleGeneration<T extends z.ZodType<{ model?: string | undefined }>>(
  c: Context<AppEnv>,
  parts: GenerationParts,
  schema: T,
  toCall: (body: z.output<T>, context: JobContext) => GenerationCall,
  prepare: (body: unknown) => unknown = (body) => body,
): Promise<Response> {
  const startedMs = performance.now()
  const trace = c.get('trace')
  const abort = new AbortController()
  const { signal } = c.req.raw
  const onDisconnect = () => abort.abort()
  if (signal.aborted) onDisconnect()
  else signal.addEventListener('abort', onDisconnect, { once: true })

  const sent = await readJson(c)
  if (trace.conversationId === null) trace.setConversation(conversationOf(sent))
  const body = parseBody(schema, prepare(sent))
  const deadlineMs = parts.requestTimeoutMs > 0 ? startedMs + parts.requestTimeoutMs : null
  // A model that is served on demand is loaded here, within the request's time limit.
  const model = await whileWanted(deadlineMs, abort.signal, (wanted) => parts.state.use(body.model, wanted))
  onceAnswered(c, model.release)
  const { engine } = model
  const call = toCall(body, {
    requestId: c.get('requestId'),
    model: model.name,
    parent: model.parent,
    fingerprint: model.fingerprint,
    chatTemplate: engine.tokenizer?.chatTemplate ?? null,
    maxModelLen: engine.maxModelLen,
    cacheSalt: c.get('caller').cacheSalt,
    defaultSeed: parts.defaultSeed,
    defaults: model.samplingDefaults,
    deadlineMs,
    onUpstreamCall: (url) => trace.calls.startUpstream(url),
  })
  const { job } = call
  trace.setGeneration({
    operation: job.kind === 'chat' ? 'chat' : 'text_completion',
    model: job.model,
    parentModel: model.parent,
    numChoices: job.generation.prompts.length * job.generation.n,
    n: job.shown.choices,
    ...job.sent,
    stopSequences: job.generation.stop.length,
    stream: job.stream,
    isJson: job.generation.structured?.kind.startsWith('json') ?? false,
  })
  if (trace.capturesContent) trace.setContent(await inputContent(job, engine))
  const leave = parts.places?.take(c.get('caller').keyId, job.generation.prompts.length * job.generation.n)
  if (leave) onceAnswered(c, leave)
  const { promptTemplate } = model
  const rag = parts.rag?.as(c.get('caller').indexes) ?? null
  const response = await runPipeline({ engine, promptTemplate, rag }, call, {
    trace,
    abort,
    admitted: placeOf(c).release,
    charge: c.get('charge') ?? (() => {}),
  })
  for (const warning of job.warnings) addWarning(response.headers, warning)
  if (job.stream) c.set('isStreaming', true)
  return response
}
