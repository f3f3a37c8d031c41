/** THE request path: tokenize -> retrieve -> generate -> format. Four stages, four calls. */
import { type Engine, EngineError, type GenerationRequest, type PromptInput } from '../engine/request.ts'
import { bindStream, stage } from '../observability/context.ts'
import type { RagService } from '../rag/service.ts'
import { Slice } from '../rag/slice.ts'
import { promptContent } from './captured-content.ts'
import { clientGone, unlessGone } from './disconnect.ts'
import { invalidRequest } from './errors.ts'
import type { GenerationJob } from './job.ts'
import { type Citations, GenerationResult } from './generation-result.ts'
import type { EchoText, GenerationCall } from './output.ts'
import { SSE_HEADERS, sseStream } from './sse.ts'
import {
  type Accepted,
  type AcceptedGeneration,
  noteResult,
  type RequestScope,
  streamedOutput,
} from './streamed-output.ts'

export interface PipelineParts {
  readonly engine: Engine
  /** null: the server has no retrieval. */
  readonly rag: RagService | null
}

interface FinalPrompts {
  readonly prompts: readonly PromptInput[]
  readonly citations: Citations | null
}

/** Runs a job to its response. A stream goes on after this returns and closes the trace itself. */
export async function runPipeline(parts: PipelineParts, call: GenerationCall, scope: RequestScope): Promise<Response> {
  const { job } = call
  const own = await tokenize(parts.engine, job)
  const final = job.rag ? await retrieve(parts, job, scope.abort.signal) : { prompts: own, citations: null }
  if (job.rag && scope.trace.capturesContent) scope.trace.setContent(promptContent(final.prompts, parts.engine))
  const accepted = await generate(parts.engine, { ...job.generation, prompts: final.prompts }, scope)
  if (accepted.first?.type === 'prompt') job.warnings.push(...(accepted.first.warnings ?? []))
  const shape = call.shape(echoTextOf(parts.engine, job, final.prompts))
  const format = job.stream ? formatStream : formatBody
  return format({ job, accepted, shape, citations: final.citations }, scope)
}

/** The caller's own prompt as token ids; a remote engine keeps the text. */
async function tokenize(engine: Engine, job: GenerationJob): Promise<readonly PromptInput[]> {
  return stage('tokenize.input', async (span) => {
    const { addSpecialTokens, truncatePrompt } = job
    const encoded: (readonly number[] | null)[] = []
    const slice = new Slice()
    for (const prompt of job.generation.prompts) {
      if (slice.isOver) await slice.end()
      encoded.push(engine.encode(prompt, { addSpecialTokens }))
    }
    if (encoded.includes(null)) requireLocal(job)
    const kept = truncatePrompt === null ? encoded : encoded.map((ids) => ids && ids.slice(-truncatePrompt))
    const numTokens = kept.reduce((sum, ids) => sum + (ids?.length ?? 0), 0)
    // Where a remote engine tokenizes, their number is not known: not zero.
    const isKnown = !kept.includes(null)
    span.set({ ...(isKnown && { 'llm.tokens.in': numTokens }), 'tokenizer.name': engine.tokenizerName })
    return kept.map((ids, i) => (ids ? { ids, param: job.promptField } : (job.generation.prompts[i] ?? { ids: [] })))
  })
}

/** What the tokenizer of a remote engine would have to do. @throws ApiError 400 */
function requireLocal({ truncatePrompt, addSpecialTokens, kind, promptLogprobs }: GenerationJob): void {
  if (truncatePrompt !== null) throw unsupportedField('truncate_prompt_tokens')
  if (kind === 'completion' && !addSpecialTokens) throw unsupportedField('add_special_tokens')
  if (promptLogprobs >= 0) throw unsupportedField('prompt_logprobs')
}

const unsupportedField = (field: string) =>
  invalidRequest(`${field}: not supported where a remote engine tokenizes`, field)

/** The final prompt: the retrieved documents and the question in the model's own template. */
async function retrieve(parts: PipelineParts, job: GenerationJob, gone: AbortSignal): Promise<FinalPrompts> {
  if (!parts.rag || !job.rag) throw invalidRequest('rag: no index is configured on this server', 'rag', 'no_index')
  const { deadlineMs } = job.generation
  const late = deadlineMs === null ? null : AbortSignal.timeout(Math.max(0, Math.ceil(deadlineMs - performance.now())))
  const signal = late ? AbortSignal.any([gone, late]) : gone
  try {
    return await unlessGone(gone, parts.rag.augment(job.rag, job.generation, parts.engine, signal))
  } catch (error) {
    if (!late?.aborted || gone.aborted) throw error
    throw new EngineError('deadline', 'the request took longer than its time limit', null, { cause: error })
  }
}

/** Submits to the engine and waits until it has accepted: a refusal is a status, not the first frame of a stream. */
async function generate(engine: Engine, request: GenerationRequest, scope: RequestScope): Promise<Accepted> {
  const events = engine.submit(request, scope.abort.signal)
  const { value } = await events.next()
  scope.admitted()
  return { first: value, events }
}

/** One JSON body. The middleware closes the trace. */
async function formatBody(generation: AcceptedGeneration, scope: RequestScope): Promise<Response> {
  const { job, accepted, shape, citations } = generation
  const result = new GenerationResult(job)
  if (accepted.first !== undefined) result.add(accepted.first, true)
  for await (const event of accepted.events) result.add(event, true)
  if (scope.abort.signal.aborted) throw clientGone()
  return stage('format.output', async (span) => {
    const body = JSON.stringify(shape.body(result, citations))
    span.set({
      'llm.tokens.out': result.summary.tokensOut,
      'output.format': job.generation.structured ? 'json' : 'text',
    })
    noteResult(scope, job, result)
    return new Response(body, { headers: { 'content-type': 'application/json' } })
  })
}

/** Server-sent events. */
function formatStream(generation: AcceptedGeneration, scope: RequestScope): Response {
  return new Response(bindStream(sseStream(streamedOutput(generation, scope))), { headers: SSE_HEADERS })
}

/** The texts of the prompts, for answers that give them back. */
function echoTextOf(engine: Engine, job: GenerationJob, prompts: readonly PromptInput[]): EchoText {
  const finalIds = (promptIndex: number): readonly number[] => {
    const prompt = prompts[promptIndex]
    return prompt && 'ids' in prompt ? prompt.ids : []
  }
  return {
    prompt(promptIndex) {
      const given = job.generation.prompts[promptIndex]
      return given && 'text' in given ? given.text : (engine.decode(finalIds(promptIndex)) ?? '')
    },
    firstToken: (promptIndex) => engine.decode(finalIds(promptIndex).slice(0, 1), { skipSpecialTokens: false }) ?? '',
  }
}
