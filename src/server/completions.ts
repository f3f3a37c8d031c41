/** POST /v1/completions and /v1/chat/completions: a body becomes a job, the pipeline does the rest. */
import type { Context } from 'hono'
import type { z } from 'zod'
import type { Engine } from '../engine/request.ts'
import type { RagService } from '../rag/service.ts'
import { type AppEnv, bindingsOf } from './env.ts'
import { chatJob, completionJob, type GenerationJob, type JobContext } from './job.ts'
import { chatShape } from './chat-shape.ts'
import { completionShape } from './completion-shape.ts'
import type { FairShares } from './fair-shares.ts'
import type { Caller } from './keys.ts'
import type { GenerationCall } from './output.ts'
import { readJson } from './body.ts'
import { ApiError, invalidRequest } from './errors.ts'
import { runPipeline } from './pipeline.ts'
import type { Handlers } from './routes.ts'
import type { ServerState } from './state.ts'
import { parseBody } from './validation.ts'
import { chatRequest, completionRequest } from './wire.ts'

export interface GenerationParts {
  readonly state: ServerState
  readonly rag: RagService | null
  /** null: all requests are of one key. */
  readonly shares: FairShares | null
  readonly maxQueuedRequests: number
  readonly maxNumSeqs: number
  readonly maxRequestBytes: number
  /** 0: none. */
  readonly requestTimeoutMs: number
  readonly defaultSeed: number | null
}

export function generationHandlers(
  parts: GenerationParts,
): Pick<Handlers, 'createCompletion' | 'createChatCompletion'> {
  return {
    createCompletion: (c) =>
      handleGeneration(c, parts, completionRequest, requirePrompt, (body, context) => {
        const job = completionJob(body, context)
        return { job, shape: (echoText) => completionShape(job, echoText) }
      }),
    createChatCompletion: (c) =>
      handleGeneration(c, parts, chatRequest, asIs, (body, context) => {
        const job = chatJob(body, context)
        return { job, shape: () => chatShape(job) }
      }),
  }
}

/** A conversation sent to the wrong route would read as a prompt that is missing. */
function requirePrompt(body: unknown): unknown {
  if (typeof body === 'object' && body !== null && 'messages' in body && !('prompt' in body)) {
    throw invalidRequest('prompt: expected one, found messages; POST /v1/chat/completions takes those', 'prompt')
  }
  return body
}

const asIs = (body: unknown): unknown => body

/**
 * One generation, from its body to its response.
 * @param prepare what the schema leaves to be done before it: short forms made long. @param toCall throws ApiError.
 */
export async function handleGeneration<T extends z.ZodType<{ model?: string | undefined }>>(
  c: Context<AppEnv>,
  parts: GenerationParts,
  schema: T,
  prepare: (body: unknown) => unknown,
  toCall: (body: z.output<T>, context: JobContext) => GenerationCall,
): Promise<Response> {
  const startedMs = performance.now()
  const trace = c.get('trace')
  const abort = new AbortController()
  const { signal } = c.req.raw
  const onDisconnect = () => abort.abort()
  if (signal.aborted) onDisconnect()
  else signal.addEventListener('abort', onDisconnect, { once: true })

  const body = parseBody(schema, prepare(await readJson(c, parts.maxRequestBytes)))
  const engine: Engine = parts.state.engineFor(body.model)
  const call = toCall(body, {
    requestId: c.get('requestId'),
    model: engine.modelName,
    fingerprint: parts.state.fingerprint,
    chatTemplate: engine.tokenizer?.chatTemplate ?? null,
    maxModelLen: engine.maxModelLen,
    cacheSalt: c.get('caller').cacheSalt,
    defaultSeed: parts.defaultSeed,
    defaults: parts.state.samplingDefaults,
    deadlineMs: parts.requestTimeoutMs > 0 ? startedMs + parts.requestTimeoutMs : null,
    onUpstreamCall: (url) => trace.startUpstreamCall(url),
  })
  const job = withPriority(call.job, c.get('caller'))
  trace.setGeneration({
    operation: job.kind === 'chat' ? 'chat' : 'text_completion',
    model: job.model,
    numChoices: job.generation.prompts.length * job.generation.n,
    n: job.n,
    ...job.sent,
    stopSequences: job.generation.stop.length,
    stream: job.stream,
  })
  const shared = enterShare(c, parts, job, engine)
  const response = await runPipeline(
    { engine, rag: parts.rag },
    { ...call, job: shared },
    { trace, abort, admitted: c.get('admitted'), charge: c.get('charge') ?? (() => {}) },
  )
  for (const warning of job.warnings) response.headers.append('X-Miniserve-Warning', warning)
  if (job.stream) c.set('isStreaming', true)
  return response
}

/** Before others goes what the admin sends; any other key may only wait longer than it has to. */
function withPriority(job: GenerationJob, caller: Caller): GenerationJob {
  const { generation } = job
  if (generation.priority >= 0 || caller.isAdmin) return job
  job.warnings.push('priority: below 0 is for the admin key; served as 0')
  return { ...job, generation: { ...generation, priority: 0 } }
}

/** Priorities are apart by more than any tag. */
const TAGS_PER_PRIORITY = 2 ** 40

/**
 * Where there are several keys, the job's place among their requests, held until the answer is over.
 * @throws ApiError 429 when the key's own requests fill its part of the queue: what is left is for the others.
 */
function enterShare(c: Context<AppEnv>, parts: GenerationParts, job: GenerationJob, engine: Engine): GenerationJob {
  const { shares } = parts
  // A remote engine has its own ideas of priority.
  if (!shares || engine.modelInfo === null) return job
  const { generation } = job
  const { keyId } = c.get('caller')
  const numSequences = generation.prompts.length * generation.n
  const most = parts.maxNumSeqs + Math.floor(parts.maxQueuedRequests / 2)
  const under = shares.numSequences(keyId)
  if (under > 0 && under + numSequences > most) {
    throw new ApiError(
      'key_queue_full',
      `this key has ${under} sequences under way and may have ${most}; ${numSequences} more would keep others out`,
    )
  }
  const share = shares.enter(keyId, numSequences)
  const { outgoing } = bindingsOf(c)
  if (outgoing) outgoing.once('close', share.leave)
  else share.leave()
  const priority = generation.priority * TAGS_PER_PRIORITY + share.tag
  return { ...job, generation: { ...generation, priority } }
}
