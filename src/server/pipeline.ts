/** THE request path: tokenize -> retrieve -> generate -> format. Four stages, four calls. */
import type { Engine, GenerationEvent, GenerationRequest, PromptInput } from '../engine/request.ts'
import { bindIterator, openStage, stage } from '../observability/context.ts'
import type { RequestTrace } from '../observability/request-trace.ts'
import type { RagService } from '../rag/service.ts'
import { endingOf } from './endings.ts'
import { ApiError, invalidRequest, toApiError, toErrorBody } from './errors.ts'
import type { GenerationJob } from './job.ts'
import { chatShape, type Citations, completionShape, GenerationResult, type Shape, tailOf } from './output.ts'
import { dataFrame, DONE_FRAME, SSE_HEADERS, sseStream } from './sse.ts'

export interface PipelineParts {
  readonly engine: Engine
  /** null: the server has no retrieval. */
  readonly rag: RagService | null
}

/** The life of one request around the pipeline. */
export interface RequestScope {
  readonly trace: RequestTrace
  /** Aborted when the client goes away, and by the pipeline when a stream is closed early. */
  readonly abort: AbortController
  /** The engine has the request: its place before the engine is free again. */
  readonly admitted: () => void
}

interface FinalPrompts {
  readonly prompts: readonly PromptInput[]
  readonly citations: Citations | null
}

/** Runs a job to its response. A stream goes on after this returns and closes the trace itself. */
export async function runPipeline(parts: PipelineParts, job: GenerationJob, scope: RequestScope): Promise<Response> {
  const own = await tokenize(parts.engine, job)
  const final = job.rag ? await retrieve(parts, job) : { prompts: own, citations: null }
  const events = await generate(parts.engine, { ...job.generation, prompts: final.prompts }, scope)
  return job.stream ? formatStream(parts, job, final, events, scope) : formatBody(parts, job, final, events, scope)
}

/** The caller's own prompt as token ids; a remote engine keeps the text. */
async function tokenize(engine: Engine, job: GenerationJob): Promise<readonly PromptInput[]> {
  return stage('tokenize.input', async (span) => {
    const encoded = job.generation.prompts.map((prompt) => engine.encode(prompt))
    const numTokens = encoded.reduce((sum, ids) => sum + (ids?.length ?? 0), 0)
    span.set({ 'llm.tokens.in': numTokens, 'tokenizer.name': engine.tokenizerName })
    return encoded.map((ids, i) => (ids ? { ids } : (job.generation.prompts[i] ?? { ids: [] })))
  })
}

/** The final prompt: the retrieved documents and the question in the model's own template. */
async function retrieve(parts: PipelineParts, job: GenerationJob): Promise<FinalPrompts> {
  if (!parts.rag || !job.rag) throw invalidRequest('rag: no index is configured on this server', 'rag', 'no_index')
  return parts.rag.augment(job.rag, job.generation, parts.engine)
}

/** Submits to the engine and waits until it has accepted: a refusal is a status, not the first frame of a stream. */
async function generate(
  engine: Engine,
  request: GenerationRequest,
  scope: RequestScope,
): Promise<AsyncIterableIterator<GenerationEvent>> {
  const events = engine.submit(request, scope.abort.signal)
  const first = await events.next()
  scope.admitted()
  return first.done ? events : prepend(first.value, events)
}

async function* prepend<T>(first: T, rest: AsyncIterableIterator<T>): AsyncIterableIterator<T> {
  yield first
  yield* rest
}

/** One JSON body. The middleware closes the trace. */
async function formatBody(
  parts: PipelineParts,
  job: GenerationJob,
  final: FinalPrompts,
  events: AsyncIterable<GenerationEvent>,
  scope: RequestScope,
): Promise<Response> {
  const result = new GenerationResult(job)
  for await (const event of events) result.add(event, true)
  if (scope.abort.signal.aborted)
    throw new ApiError(499 as 500, 'server_error', 'the client went away', { code: 'client_disconnect' })
  return stage('format.output', async (span) => {
    const body = JSON.stringify(shapeOf(parts, job, final).body(result, final.citations))
    span.set({
      'llm.tokens.out': result.numGeneratedTokens,
      'output.format': job.generation.structured ? 'json' : 'text',
    })
    noteResult(scope.trace, job, result)
    return new Response(body, { headers: { 'content-type': 'application/json' } })
  })
}

/** Server-sent events. The trace closes before [DONE] is written, or where the stream breaks. */
function formatStream(
  parts: PipelineParts,
  job: GenerationJob,
  final: FinalPrompts,
  events: AsyncIterable<GenerationEvent>,
  scope: RequestScope,
): Response {
  const { trace, abort } = scope
  const result = new GenerationResult(job)
  const shape = shapeOf(parts, job, final)

  async function* frames(): AsyncGenerator<string> {
    const output = openStage('format.output')
    const close = () => output.end({ 'llm.tokens.out': result.numGeneratedTokens, 'output.format': 'sse' })
    try {
      for (const chunk of shape.opening()) yield dataFrame(chunk)
      for await (const event of events) {
        result.add(event, trace.capturesContent)
        for (const chunk of toChunks(shape, event, job, result, final.citations)) yield dataFrame(chunk)
      }
      if (job.includeUsage) yield dataFrame(shape.usage(tailOf(result, final.citations)))
      close()
      noteResult(trace, job, result)
      if (abort.signal.aborted) return
      trace.finish({ ending: 'success', status: 200 })
      yield DONE_FRAME
    } catch (error) {
      close()
      noteResult(trace, job, result)
      trace.finish({ ...endingOf(error), status: 200 })
      yield dataFrame(toErrorBody(toApiError(error, trace.traceId)))
      yield DONE_FRAME
    } finally {
      // Reached early when the consumer stopped reading; the engine has then ended the choices. A finished trace stays as it is.
      close()
      noteResult(trace, job, result)
      trace.finish({ ending: abort.signal.aborted ? 'client_disconnect' : 'closed_early', status: 200 })
    }
  }

  const onCancel = () => {
    const isClientGone = abort.signal.aborted
    abort.abort()
    // A stream nobody ever read has run no line of frames().
    if (!output.started) trace.finish({ ending: isClientGone ? 'client_disconnect' : 'closed_early', status: 200 })
  }
  const output = started(bindIterator(frames()))
  return new Response(sseStream(output, onCancel), { headers: SSE_HEADERS })
}

/** An iterator that knows whether it was ever asked. */
function started(frames: AsyncIterableIterator<string>): AsyncIterator<string> & { readonly started: boolean } {
  let isStarted = false
  return {
    get started() {
      return isStarted
    },
    next: () => {
      isStarted = true
      return frames.next()
    },
    return: (value) => frames.return?.(value) ?? Promise.resolve({ done: true, value: undefined }),
  }
}

function toChunks(
  shape: Shape,
  event: GenerationEvent,
  job: GenerationJob,
  result: GenerationResult,
  citations: Citations | null,
): unknown[] {
  switch (event.type) {
    case 'prompt':
      return []
    case 'promptLogprobs':
      return shape.echo(event)
    case 'token':
      return [shape.token(event) ?? []].flat()
    case 'finished':
      return [shape.finished(event, result.isComplete && !job.includeUsage ? tailOf(result, citations) : null)]
  }
}

/** What the root span and the story's last line say of the result. */
function noteResult(trace: RequestTrace, job: GenerationJob, result: GenerationResult): void {
  trace.setResult({
    tokensIn: result.numPromptTokens,
    tokensOut: result.numGeneratedTokens,
    cachedTokens: result.numCachedTokens,
    finishReasons: result.finishReasons,
    timeToFirstTokenSeconds: result.timeToFirstTokenSeconds,
    isScored: job.generation.maxTokens === 0,
  })
  if (!trace.capturesContent) return
  const { prompts } = job.generation
  trace.setContent({
    input: JSON.stringify(prompts),
    output: JSON.stringify(result.choices.map((choice) => choice.text)),
  })
}

function shapeOf(parts: PipelineParts, job: GenerationJob, final: FinalPrompts): Shape {
  if (job.kind === 'chat') return chatShape(job)
  const finalIds = (promptIndex: number): readonly number[] => {
    const prompt = final.prompts[promptIndex]
    return prompt && 'ids' in prompt ? prompt.ids : []
  }
  return completionShape(job, {
    prompt(promptIndex) {
      const given = job.generation.prompts[promptIndex]
      return given && 'text' in given ? given.text : (parts.engine.decode(finalIds(promptIndex)) ?? '')
    },
    firstToken: (promptIndex) =>
      parts.engine.decode(finalIds(promptIndex).slice(0, 1), { skipSpecialTokens: false }) ?? '',
  })
}
