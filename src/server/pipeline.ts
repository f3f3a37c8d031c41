/** The way of a generation: tokenize, retrieve, generate, format. */
import type { Engine, GenerationRequest, PromptInput } from '../engine/request.ts'
import { stage } from '../observability/context.ts'
import type { PromptEngine } from '../rag/final-prompt.ts'
import type { PromptTemplate } from '../rag/prompt.ts'
import type { RagService } from '../rag/service.ts'
import { promptContent } from './captured-content.ts'
import { invalidRequest, clientGone, whileWanted } from './errors.ts'
import type { GenerationJob } from './job.ts'
import { GenerationResult } from './generation-result.ts'
import { JSON_HEADERS, toJson } from './large-json.ts'
import type { EchoedPrompt, GenerationCall } from './output.ts'
import { SSE_HEADERS, sseStream } from './sse.ts'
import {
  type Accepted,
  type AcceptedGeneration,
  noteResult,
  type ServedRequest,
  StreamedOutput,
} from './streamed-output.ts'

interface PipelineParts {
  readonly engine: Engine
  /** The model's own template for retrieved documents; null: it has none. */
  readonly promptTemplate: PromptTemplate | null
  /** null: the server has no retrieval. */
  readonly rag: Pick<RagService, 'augment'> | null
}

/** Runs a job and returns its response. A stream continues afterwards, and closes the trace itself. */
export async function runPipeline(parts: PipelineParts, call: GenerationCall, scope: ServedRequest): Promise<Response> {
  const { job } = call
  const own = await tokenize(parts.engine, job, scope.abort.signal)
  const final = job.rag ? await retrieve(parts, job, scope.abort.signal) : { prompts: own, citations: null }
  if (job.rag && scope.trace.capturesContent) scope.trace.setContent(await promptContent(final.prompts, parts.engine))
  const accepted = await generate(parts.engine, { ...job.generation, prompts: final.prompts }, scope)
  if (accepted.first?.type === 'prompt') job.warnings.push(...(accepted.first.warnings ?? []))
  const shape = call.shape(job.echo ? await echoOf(parts.engine, job, final.prompts) : [])
  const format = job.stream ? formatStream : formatBody
  return format({ job, accepted, shape, citations: final.citations }, scope)
}

/** The caller's prompt as token ids; for a remote engine it stays text. */
async function tokenize(engine: Engine, job: GenerationJob, gone: AbortSignal): Promise<readonly PromptInput[]> {
  return stage('tokenize.input', async (span) => {
    const { addSpecialTokens, truncatePrompt } = job
    const { prompts, tenant } = job.generation
    const encoded = await whileWanted(job.generation.deadlineMs, gone, (signal) =>
      engine.encode(prompts, { addSpecialTokens, tenant, signal }),
    )
    span.set({ 'tokenizer.name': engine.tokenizerName })
    if (encoded === null) {
      requireLocal(job)
      return prompts
    }
    const kept = truncatePrompt === null ? encoded : encoded.map((ids) => ids.slice(-truncatePrompt))
    span.set({ 'llm.tokens.in': kept.reduce((sum, ids) => sum + ids.length, 0) })
    return kept.map((ids) => ({ ids, param: job.promptField }))
  })
}

/** Refuses fields that need a local tokenizer when the engine is remote. @throws ApiError 400 */
function requireLocal({ truncatePrompt, addSpecialTokens, kind, promptLogprobs }: GenerationJob): void {
  if (truncatePrompt !== null) throw unsupportedField('truncate_prompt_tokens')
  if (kind === 'completion' && !addSpecialTokens) throw unsupportedField('add_special_tokens')
  if (promptLogprobs >= 0) throw unsupportedField('prompt_logprobs')
}

const unsupportedField = (field: string) =>
  invalidRequest(`${field}: not supported where a remote engine tokenizes`, field)

/** The final prompt: the retrieved documents and the question in the model's template. */
async function retrieve(parts: PipelineParts, job: GenerationJob, gone: AbortSignal) {
  const { rag, engine, promptTemplate } = parts
  const { rag: request, generation } = job
  if (!rag || !request) throw invalidRequest('rag: no index is configured on this server', 'rag', 'no_index')
  const { tenant } = generation
  return whileWanted(generation.deadlineMs, gone, (signal) => {
    const own: PromptEngine = {
      maxModelLen: engine.maxModelLen,
      promptTemplate,
      encode: (prompts, options) => engine.encode(prompts, { ...options, tenant, signal }),
      decode: (ids, options) => engine.decode(ids, { ...options, tenant, signal }),
    }
    return rag.augment(request, generation, own, signal)
  })
}

/** Submits to the engine and waits until it has accepted the request, so that a refusal gets its own status. */
async function generate(engine: Engine, request: GenerationRequest, scope: ServedRequest): Promise<Accepted> {
  const events = engine.submit(request, scope.abort.signal)
  const { value } = await events.next()
  scope.admitted()
  return { first: value, events }
}

/** One JSON body. The middleware closes the trace. */
async function formatBody(generation: AcceptedGeneration, scope: ServedRequest): Promise<Response> {
  const { job, accepted, shape, citations } = generation
  const result = new GenerationResult(job)
  if (accepted.first !== undefined) result.add(accepted.first, true)
  for await (const event of accepted.events) result.add(event, true)
  if (scope.abort.signal.aborted) throw clientGone()
  return stage('format.output', async (span) => {
    const body = await toJson(shape.body(result, citations))
    span.set({
      'llm.tokens.out': result.summary.tokensOut,
      'output.format': job.generation.structured ? 'json' : 'text',
    })
    noteResult(scope, job, result)
    return new Response(body, { headers: JSON_HEADERS })
  })
}

/** Server-sent events. */
const formatStream = (generation: AcceptedGeneration, scope: ServedRequest): Response =>
  new Response(sseStream(new StreamedOutput(generation, scope)), { headers: SSE_HEADERS })

/** The prompts, for responses that repeat them. */
async function echoOf(
  engine: Engine,
  { generation }: GenerationJob,
  prompts: readonly PromptInput[],
): Promise<readonly EchoedPrompt[]> {
  const { tenant } = generation
  const echoed: EchoedPrompt[] = []
  for (const [i, prompt] of prompts.entries()) {
    const given = generation.prompts[i]
    const ids = 'ids' in prompt ? prompt.ids : []
    const text = given && 'text' in given ? given.text : await engine.decode(ids, { tenant, skipSpecialTokens: false })
    echoed.push({ text: text ?? '', firstToken: (await engine.decode(ids.slice(0, 1))) ?? '' })
  }
  return echoed
}
