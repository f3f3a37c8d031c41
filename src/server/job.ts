/** A validated generation request, free of its wire shape: what the pipeline runs. */
import { createHmac } from 'node:crypto'
import type { SamplingDefaults } from '../engine/sampling-defaults.ts'
import type { ChatMessage, GenerationRequest, PromptInput, StructuredOutput, ToolUse } from '../engine/request.ts'
import { invalidRequest } from './errors.ts'
import type { ChatMessageFields, ChatRequest, CompletionRequest } from './wire.ts'

/** What to retrieve for the request, with the fields the caller left out as null. */
export interface RagJob {
  readonly query: string
  readonly index: string | null
  readonly topK: number | null
  readonly topN: number | null
  readonly minScore: number | null
  readonly filter: Readonly<Record<string, unknown>> | null
}

export interface GenerationJob {
  readonly kind: 'completion' | 'chat'
  /** The request's field that the prompts came from. */
  readonly promptField: 'prompt' | 'messages' | 'input'
  readonly requestId: string
  readonly model: string
  /** Unix seconds. */
  readonly created: number
  readonly stream: boolean
  readonly includeUsage: boolean
  readonly echo: boolean
  readonly returnTokenIds: boolean
  /** Choices a prompt that the answer shows: the best of the `generation.n` that are generated. */
  readonly n: number
  /** As generation.logprobs, of what the answer shows. */
  readonly logprobs: number
  readonly rag: RagJob | null
  /** Parameters as the caller sent them, for the span; undefined where left out. */
  readonly sent: {
    readonly maxTokens: number | undefined
    readonly temperature: number | undefined
    readonly topP: number | undefined
    readonly topK: number | undefined
    readonly seed: number | undefined
  }
  /** Everything the engine needs; the pipeline replaces `prompts` by what tokenizing and retrieval made of them. */
  readonly generation: GenerationRequest
}

/** What the server knows about a request besides its body. */
export interface JobContext {
  readonly requestId: string
  readonly model: string
  readonly maxModelLen: number
  readonly cacheSalt: string
  readonly defaultSeed: number | null
  /** What the model's generation_config.json says, for parameters that the caller left out. */
  readonly defaults: SamplingDefaults
  readonly deadlineMs: number | null
  readonly onUpstreamCall: NonNullable<GenerationRequest['onUpstreamCall']>
}

/** OpenAI's default for completions. Chat generates to the end of the context. */
const DEFAULT_COMPLETION_TOKENS = 16

export function completionJob(body: CompletionRequest, context: JobContext): GenerationJob {
  const prompts = promptInputs(body.prompt)
  const logprobs = body.logprobs ?? -1
  const echo = body.echo ?? false
  const maxTokens = body.max_tokens ?? DEFAULT_COMPLETION_TOKENS
  const n = body.n ?? 1
  const bestOf = body.best_of ?? n
  if (bestOf < n) throw invalidRequest(`best_of: expected at least n (${n}), found ${bestOf}`, 'best_of')
  if (bestOf > n && body.stream)
    throw invalidRequest('best_of: the best are known at the end, so more than n cannot be streamed', 'best_of')
  if (echo && body.rag)
    throw invalidRequest('echo: expected false when rag is set: the final prompt holds documents', 'echo')
  if (maxTokens === 0 && body.stream)
    throw invalidRequest('max_tokens: 0 scores the prompt and cannot be streamed', 'max_tokens')
  if (body.rag && (prompts.length > 1 || !prompts[0] || !('text' in prompts[0]))) {
    throw invalidRequest('prompt: expected one string when rag is set, found token ids or several prompts', 'prompt')
  }
  const query = prompts[0] && 'text' in prompts[0] ? prompts[0].text : ''
  if (body.rag && query.trim() === '')
    throw invalidRequest('prompt: expected a question when rag is set, found blanks', 'prompt')
  return {
    ...common(body, context),
    kind: 'completion',
    promptField: 'prompt',
    echo,
    n,
    logprobs,
    rag: ragJob(body.rag, query),
    generation: {
      ...generationFields(body, context),
      prompts,
      n: bestOf,
      maxTokens,
      // What the best are chosen by.
      logprobs: bestOf > n ? Math.max(0, logprobs) : logprobs,
      promptLogprobs: echo ? logprobs : -1,
    },
  }
}

export function chatJob(
  body: ChatRequest,
  context: JobContext,
  promptField: GenerationJob['promptField'] = 'messages',
): GenerationJob {
  const messages = body.messages.map(toChatMessage)
  const lastUser = messages.findLast((message) => message.role === 'user')
  if (body.rag && (lastUser?.content ?? '').trim() === '')
    throw invalidRequest(`${promptField}: expected a question in a message of role user when rag is set`, promptField)
  if (body.top_logprobs !== undefined && !body.logprobs) {
    throw invalidRequest('top_logprobs: expected logprobs to be true as well', 'top_logprobs')
  }
  const logprobs = body.logprobs ? (body.top_logprobs ?? 0) : -1
  const toolUse = toolUseOf(body)
  const tools = toolUse?.tools ?? []
  return {
    ...common(body, context),
    kind: 'chat',
    promptField,
    echo: false,
    n: body.n ?? 1,
    logprobs,
    rag: ragJob(body.rag, lastUser?.content ?? ''),
    generation: {
      ...generationFields(body, context),
      ...(toolUse === null ? {} : { toolUse }),
      prompts: [
        {
          messages,
          ...(tools.length === 0 ? {} : { tools }),
          continueFinalMessage: body.continue_final_message ?? false,
        },
      ],
      maxTokens: body.max_completion_tokens ?? body.max_tokens ?? context.maxModelLen,
      logprobs,
      promptLogprobs: -1,
    },
  }
}

/** The functions that may be called, and how; null: none. */
function toolUseOf(body: ChatRequest): ToolUse | null {
  const { tools = [], tool_choice: choice = 'auto' } = body
  // `none` forbids calls; what the model does not know of it cannot call.
  if (choice === 'none') return null
  const isForced = choice !== 'auto'
  if (tools.length === 0) {
    if (isForced) throw invalidRequest('tool_choice: expected tools to choose from, found none', 'tool_choice')
    return null
  }
  if (body.rag) throw invalidRequest('tools: expected none when rag is set', 'tools')
  if (isForced && structuredOutput(body) !== null) {
    const param = body.structured_outputs ? 'structured_outputs' : 'response_format'
    throw invalidRequest(`${param}: expected none when tool_choice asks for a call`, param)
  }
  if (typeof choice !== 'string' && !tools.some((tool) => tool.function.name === choice.function.name))
    throw invalidRequest(
      'tool_choice.function.name: expected the name of one of the tools',
      'tool_choice.function.name',
    )
  return {
    tools,
    choice: typeof choice === 'string' ? choice : { name: choice.function.name },
    parallel: body.parallel_tool_calls ?? true,
  }
}

/** A message of the wire as the engine takes it. */
export function toChatMessage({
  role,
  content,
  name,
  tool_calls: calls,
  tool_call_id: callId,
}: ChatMessageFields): ChatMessage {
  return {
    role,
    content,
    ...(name === undefined ? {} : { name }),
    ...(callId === undefined ? {} : { toolCallId: callId }),
    ...(calls === undefined
      ? {}
      : {
          toolCalls: calls.map(({ id, function: { name: called, arguments: args } }) => ({
            id,
            name: called,
            arguments: args,
          })),
        }),
  }
}

/** The fields of both routes that mean the same in both. */
type SharedFields = Omit<Pick<CompletionRequest, keyof CompletionRequest & keyof ChatRequest>, 'logprobs'>

function common(body: SharedFields, context: JobContext) {
  const stream = body.stream ?? false
  if (body.stream_options && !stream)
    throw invalidRequest('stream_options: expected stream to be true as well', 'stream_options')
  return {
    requestId: context.requestId,
    model: context.model,
    created: Math.floor(Date.now() / 1000),
    stream,
    includeUsage: body.stream_options?.include_usage ?? false,
    returnTokenIds: body.return_token_ids ?? false,
    sent: {
      maxTokens: body.max_tokens,
      temperature: body.temperature,
      topP: body.top_p,
      topK: body.top_k,
      seed: body.seed,
    },
  }
}

function generationFields(body: SharedFields, context: JobContext) {
  const { defaults } = context
  const stop = body.stop === undefined ? [] : typeof body.stop === 'string' ? [body.stop] : body.stop
  return {
    requestId: context.requestId,
    n: body.n ?? 1,
    minTokens: body.min_tokens ?? 0,
    sampling: {
      temperature: body.temperature ?? defaults.temperature ?? 1,
      topK: Math.max(body.top_k ?? defaults.topK ?? 0, 0),
      topP: body.top_p ?? defaults.topP ?? 1,
      minP: body.min_p ?? defaults.minP ?? 0,
      seed: body.seed === undefined ? context.defaultSeed : toU32(body.seed),
      presencePenalty: body.presence_penalty ?? 0,
      frequencyPenalty: body.frequency_penalty ?? 0,
      repetitionPenalty: body.repetition_penalty ?? defaults.repetitionPenalty ?? 1,
      logitBias: body.logit_bias
        ? Object.fromEntries(Object.entries(body.logit_bias).map(([id, bias]) => [Number(id), bias]))
        : null,
    },
    stop,
    stopTokenIds: body.stop_token_ids ?? [],
    includeStopString: body.include_stop_str_in_output ?? false,
    ignoreEos: body.ignore_eos ?? false,
    structured: structuredOutput(body),
    // Under the key's own salt: two keys that choose the same one still share nothing.
    cacheSalt:
      body.cache_salt === undefined
        ? context.cacheSalt
        : createHmac('sha256', context.cacheSalt).update(body.cache_salt).digest('hex'),
    priority: body.priority ?? 0,
    deadlineMs: context.deadlineMs,
    onUpstreamCall: context.onUpstreamCall,
  } satisfies Partial<GenerationRequest>
}

/** The sampler's seeds are 32 bits wide: 0 … 2^32 - 1 stay as they are, others (safe integers, as wire.ts has it) are folded. */
const toU32 = (seed: number): number => Number(BigInt.asUintN(32, BigInt(seed) ^ (BigInt(seed) >> 32n)))

function promptInputs(prompt: CompletionRequest['prompt']): PromptInput[] {
  if (typeof prompt === 'string') return [{ text: prompt }]
  if (prompt.every((item) => typeof item === 'number')) return [{ ids: prompt }]
  return prompt.map((item) =>
    typeof item === 'string' ? { text: item } : { ids: typeof item === 'number' ? [item] : item },
  )
}

function structuredOutput(body: Pick<SharedFields, 'response_format' | 'structured_outputs'>): StructuredOutput | null {
  const format = body.response_format
  const outputs = body.structured_outputs
  if (format && format.type !== 'text' && outputs) {
    throw invalidRequest('structured_outputs: expected it alone, found response_format as well', 'structured_outputs')
  }
  if (format?.type === 'json_object') return { kind: 'json_object' }
  if (format?.type === 'json_schema') return { kind: 'json_schema', schema: format.json_schema.schema }
  if (!outputs) return null
  if (outputs.json !== undefined)
    return { kind: 'json_schema', schema: jsonSchema(outputs.json), param: 'structured_outputs' }
  if (outputs.regex !== undefined) return { kind: 'regex', pattern: outputs.regex }
  if (outputs.choice !== undefined) return { kind: 'choice', choices: outputs.choice }
  return { kind: 'grammar', ebnf: outputs.grammar ?? '' }
}

function jsonSchema(json: string | Record<string, unknown>): unknown {
  if (typeof json !== 'string') return json
  try {
    return JSON.parse(json)
  } catch {
    throw invalidRequest(
      'structured_outputs.json: expected a JSON schema, found a string that is not JSON',
      'structured_outputs.json',
    )
  }
}

function ragJob(rag: CompletionRequest['rag'], query: string): RagJob | null {
  if (rag === undefined || rag === false) return null
  const params = rag === true ? {} : rag
  return {
    query,
    index: params.index ?? null,
    topK: params.top_k ?? null,
    topN: params.top_n ?? null,
    minScore: params.min_score ?? null,
    filter: params.filter ?? null,
  }
}
