/** A validated generation request, independent of the API it came from: what the pipeline runs. */
import { createHmac } from 'node:crypto'
import type { SamplingDefaults } from '../engine/sampling-defaults.ts'
import type { ChatMessage, GenerationRequest, PromptInput, ToolUse } from '../engine/request.ts'
import type { RetrievalFields, RetrievalRequest } from '../rag/retrieval-request.ts'
import { invalidRequest } from './errors.ts'
import { constraintOf } from './job-constraints.ts'
import { templateArgumentsOf } from './template-arguments.ts'
import { defined } from './validation.ts'
import type { ChatMessageFields, ChatRequest, CompletionRequest } from './wire.ts'

export interface GenerationJob {
  readonly kind: 'completion' | 'chat'
  /** The request's field that the prompts came from. */
  readonly promptField: 'prompt' | 'messages' | 'input'
  readonly requestId: string
  readonly model: string
  /** Changes if the same request may be answered differently: for another model, device or version. */
  readonly fingerprint: string
  /** Unix seconds. */
  readonly created: number
  readonly stream: boolean
  readonly includeUsage: boolean
  /** Whether each chunk of a stream reports the tokens so far. */
  readonly continuousUsage: boolean
  readonly echo: boolean
  readonly returnTokenIds: boolean
  /** Log-probabilities name tokens by their ids instead of their text. */
  readonly tokensAsIds: boolean
  /** Log-probabilities per prompt token that the response shows in `prompt_logprobs`; -1: none. */
  readonly promptLogprobs: number
  /** Only this many of the prompt's last tokens are kept; null: all. */
  readonly truncatePrompt: number | null
  /** Whether a text prompt gets the special tokens of the model's tokenizer. */
  readonly addSpecialTokens: boolean
  /** How the response will differ from what was requested, one sentence each. */
  readonly warnings: string[]
  /** What the response shows: choices per prompt, the best of `generation.n`; and log-probabilities, at most `generation.logprobs`. */
  readonly shown: { readonly choices: number; readonly logprobs: number }
  /** What to retrieve; null: nothing. */
  readonly rag: RetrievalRequest | null
  /** Parameters as the caller sent them, for the span; undefined if they were not sent. */
  readonly sent: {
    readonly maxTokens: number | undefined
    readonly temperature: number | undefined
    readonly topP: number | undefined
    readonly topK: number | undefined
    readonly seed: number | undefined
  }
  /** Everything the engine needs. The pipeline replaces `prompts` with the results of tokenizing and retrieval. */
  readonly generation: GenerationRequest
}

/** What the server knows about a request besides its body. */
export interface JobContext {
  readonly requestId: string
  readonly model: string
  /** The model that `model` is an adapter of; null: it is none. */
  readonly parent: string | null
  readonly fingerprint: string
  /** Source of the model's chat template; null if it has none or the engine is remote. */
  readonly chatTemplate: string | null
  readonly maxModelLen: number
  readonly cacheSalt: string
  readonly defaultSeed: number | null
  /** Defaults of the model's generation_config.json. */
  readonly defaults: SamplingDefaults
  readonly deadlineMs: number | null
  readonly onUpstreamCall: NonNullable<GenerationRequest['onUpstreamCall']>
}

/** `top_p` of 0 means the likeliest token alone: the smallest share that the sampler takes. */
const SMALLEST_SHARE = 1e-6

/** OpenAI's default for completions. Chat generates to the end of the context. */
const DEFAULT_COMPLETION_TOKENS = 16

/** A completion body as a job. @throws ApiError 400 naming the field */
export function completionJob(body: CompletionRequest, context: JobContext): GenerationJob {
  const prompts = promptInputs(body.prompt)
  const logprobs = body.logprobs ?? -1
  const echo = body.echo ?? false
  const maxTokens = tokensOf(body.max_tokens ?? body.n_predict, context) ?? DEFAULT_COMPLETION_TOKENS
  const n = body.n ?? 1
  const bestOf = body.best_of ?? n
  if (bestOf < n) throw invalidRequest(`best_of: expected at least n (${n}), found ${bestOf}`, 'best_of')
  if (bestOf > n && body.stream)
    throw invalidRequest(
      'best_of: expected n or less when stream is true, because the best choices are known only at the end',
      'best_of',
    )
  if (echo && body.rag)
    throw invalidRequest('echo: expected false when rag is set: the final prompt contains documents', 'echo')
  if (maxTokens === 0 && body.stream)
    throw invalidRequest('max_tokens: 0 scores the prompt and cannot be streamed', 'max_tokens')
  if (body.rag && (prompts.length > 1 || !prompts[0] || !('text' in prompts[0]))) {
    throw invalidRequest('prompt: expected one string when rag is set, found token ids or several prompts', 'prompt')
  }
  const query = prompts[0] && 'text' in prompts[0] ? prompts[0].text : ''
  if (body.rag && query.trim() === '')
    throw invalidRequest('prompt: expected a question when rag is set, found only white space', 'prompt')
  return {
    ...sharedJobFields(body, context),
    kind: 'completion',
    promptField: 'prompt',
    echo,
    shown: { choices: n, logprobs },
    addSpecialTokens: body.add_special_tokens ?? true,
    rag: ragJob(body.rag, query),
    generation: {
      ...generationFields(body, context),
      prompts,
      n: bestOf,
      maxTokens,
      // The best choices are selected by their log-probabilities.
      logprobs: bestOf > n ? Math.max(0, logprobs) : logprobs,
      promptLogprobs: Math.max(echo ? logprobs : -1, body.prompt_logprobs ?? -1),
    },
  }
}

/** Names of a chat's fields in the API that the request came by. */
export interface ChatFields {
  readonly prompt: GenerationJob['promptField']
  readonly format: string
  /** Field of a tool with the schema of its arguments. */
  readonly parameters: string
  /** Field of the choice of a tool with its name. */
  readonly toolName: string
}

const CHAT_FIELDS: ChatFields = {
  prompt: 'messages',
  format: 'response_format',
  parameters: 'function.parameters',
  toolName: 'tool_choice.function.name',
}

/** A chat body as a job. @param fields names of the fields for errors @throws ApiError 400 naming the field */
export function chatJob(body: ChatRequest, context: JobContext, fields: ChatFields = CHAT_FIELDS): GenerationJob {
  const { prompt: promptField } = fields
  const messages = body.messages.map(toChatMessage)
  const lastUser = messages.findLast((message) => message.role === 'user')
  if (body.rag && (lastUser?.content ?? '').trim() === '')
    throw invalidRequest(`${promptField}: expected a question in a message of role user when rag is set`, promptField)
  if (body.top_logprobs !== undefined && !body.logprobs) {
    throw invalidRequest('top_logprobs: expected logprobs to be true as well', 'top_logprobs')
  }
  if (body.add_generation_prompt && body.continue_final_message)
    throw invalidRequest(
      'add_generation_prompt: expected false when continue_final_message is true',
      'add_generation_prompt',
    )
  const logprobs = body.logprobs ? (body.top_logprobs ?? 0) : -1
  const toolUse = toolUseOf(body, fields)
  const shared = sharedJobFields(body, context)
  const templateArguments = templateArgumentsOf(body, context.chatTemplate, shared.warnings)
  const tools = toolUse?.tools ?? []
  const generation = generationFields(body, context)
  const { structured } = generation
  const thinkingBudget = body.thinking_budget ?? body.thinking_token_budget
  return {
    ...shared,
    kind: 'chat',
    promptField,
    echo: false,
    shown: { choices: body.n ?? 1, logprobs },
    addSpecialTokens: false,
    rag: ragJob(body.rag, lastUser?.content ?? ''),
    generation: {
      ...generation,
      structured: structured?.param === 'response_format' ? { ...structured, param: fields.format } : structured,
      ...(toolUse === null ? {} : { toolUse }),
      separatesReasoning: true,
      ...(thinkingBudget === undefined ? {} : { thinkingBudget }),
      prompts: [
        defined({
          messages,
          tools: tools.length === 0 ? undefined : tools,
          continueFinalMessage: body.continue_final_message ?? false,
          addGenerationPrompt: body.add_generation_prompt,
          templateArguments: templateArguments ?? undefined,
        }),
      ],
      maxTokens:
        tokensOf(body.max_completion_tokens ?? body.max_tokens ?? body.n_predict, context) ?? context.maxModelLen,
      logprobs,
      promptLogprobs: body.prompt_logprobs ?? -1,
    },
  }
}

/** -1 means as many tokens as fit into the context. */
const tokensOf = (maxTokens: number | undefined, { maxModelLen }: JobContext): number | undefined =>
  maxTokens === -1 ? maxModelLen : maxTokens

/** The functions that the model may call, and how; null: none. */
function toolUseOf(body: ChatRequest, { parameters: parametersField, toolName }: ChatFields): ToolUse | null {
  const { tools: given = [], tool_choice: choice = 'auto' } = body
  // With `none` the model is not told of the tools, so it cannot call them.
  if (choice === 'none') return null
  const allowed = typeof choice !== 'string' && choice.type === 'allowed_tools' ? choice.allowed_tools : null
  const names = new Set(allowed?.tools.map((tool) => tool.function.name))
  if ([...names].some((name) => !given.some((tool) => tool.function.name === name)))
    throw invalidRequest('tool_choice: expected allowed tools that are among the tools, found another', 'tool_choice')
  const tools = allowed === null ? given : given.filter((tool) => names.has(tool.function.name))
  const named = typeof choice !== 'string' && choice.type === 'function' ? { name: choice.function.name } : null
  const mode = allowed?.mode ?? named ?? (typeof choice === 'string' ? choice : 'auto')
  if (tools.length === 0) {
    if (mode !== 'auto') throw invalidRequest('tool_choice: expected tools, found none', 'tool_choice')
    return null
  }
  if (body.rag) throw invalidRequest('tools: expected none when rag is set', 'tools')
  if (typeof mode === 'object' && !tools.some((tool) => tool.function.name === mode.name))
    throw invalidRequest(`${toolName}: expected the name of one of the tools`, toolName)
  return { tools, choice: mode, parallel: body.parallel_tool_calls ?? true, parametersField }
}

/** A message of the wire as the engine takes it. */
export const toChatMessage = (message: ChatMessageFields): ChatMessage =>
  defined({
    role: message.role,
    content: message.content,
    name: message.name,
    toolCallId: message.tool_call_id,
    reasoning: message.reasoning ?? message.reasoning_content,
    toolCalls: message.tool_calls?.map(({ id, function: called }) => ({ id, ...called })),
  })

/** The fields that mean the same in completions and chat. */
type SharedFields = Omit<
  Pick<CompletionRequest, keyof CompletionRequest & keyof ChatRequest>,
  'logprobs' | 'echo' | 'add_special_tokens' | 'chat_template_kwargs' | 'reasoning_effort'
>

/** The fields of a job that completions and chat set alike. @throws ApiError 400 naming the field */
function sharedJobFields(body: SharedFields, context: JobContext) {
  const stream = body.stream ?? false
  if (body.stream_options && !stream)
    throw invalidRequest('stream_options: expected stream to be true as well', 'stream_options')
  if (body.prompt_logprobs !== undefined && stream)
    throw invalidRequest('prompt_logprobs: the prompt is not part of a stream', 'prompt_logprobs')
  if (body.truncate_prompt_tokens !== undefined && body.rag)
    throw invalidRequest('truncate_prompt_tokens: expected none when rag is set', 'truncate_prompt_tokens')
  return {
    requestId: context.requestId,
    model: context.model,
    fingerprint: context.fingerprint,
    created: Math.floor(Date.now() / 1000),
    stream,
    includeUsage: body.stream_options?.include_usage ?? false,
    continuousUsage: body.stream_options?.continuous_usage_stats ?? false,
    returnTokenIds: body.return_token_ids ?? false,
    tokensAsIds: body.return_tokens_as_token_ids ?? false,
    promptLogprobs: body.prompt_logprobs ?? -1,
    truncatePrompt:
      body.truncate_prompt_tokens === undefined
        ? null
        : body.truncate_prompt_tokens === -1
          ? context.maxModelLen - 1
          : body.truncate_prompt_tokens,
    warnings: [] as string[],
    sent: {
      maxTokens: tokensOf(body.max_tokens ?? body.n_predict, context),
      temperature: body.temperature,
      topP: body.top_p,
      topK: body.top_k,
      seed: body.seed,
    },
  }
}

function generationFields(body: SharedFields, context: JobContext) {
  const { defaults } = context
  if (body.repetition_penalty !== undefined && body.repeat_penalty !== undefined)
    throw invalidRequest(
      'repeat_penalty: expected only one of repeat_penalty and repetition_penalty, found both',
      'repeat_penalty',
    )
  const stop = body.stop === undefined ? [] : typeof body.stop === 'string' ? [body.stop] : body.stop
  return {
    requestId: context.requestId,
    ...(context.parent === null ? {} : { adapter: context.model }),
    n: body.n ?? 1,
    minTokens: body.min_tokens ?? 0,
    sampling: {
      temperature: body.temperature ?? defaults.temperature ?? 1,
      topK: Math.max(body.top_k ?? defaults.topK ?? 0, 0),
      // 0 keeps only the most likely token, as the smallest share does.
      topP: Math.max(body.top_p ?? defaults.topP ?? 1, SMALLEST_SHARE),
      minP: body.min_p ?? defaults.minP ?? 0,
      seed: body.seed === undefined ? context.defaultSeed : toU32(body.seed),
      presencePenalty: body.presence_penalty ?? 0,
      frequencyPenalty: body.frequency_penalty ?? 0,
      repetitionPenalty: body.repetition_penalty ?? body.repeat_penalty ?? defaults.repetitionPenalty ?? 1,
      logitBias: body.logit_bias
        ? Object.fromEntries(Object.entries(body.logit_bias).map(([id, bias]) => [Number(id), bias]))
        : null,
    },
    stop,
    stopTokenIds: body.stop_token_ids ?? [],
    includeStopString: body.include_stop_str_in_output ?? false,
    ignoreEos: body.ignore_eos ?? false,
    structured: constraintOf(body)?.output ?? null,
    // Salted with the key's own salt, so that two keys with the same cache_salt share nothing.
    cacheSalt:
      body.cache_salt === undefined
        ? context.cacheSalt
        : createHmac('sha256', context.cacheSalt).update(body.cache_salt).digest('hex'),
    tenant: context.cacheSalt,
    priority: body.priority ?? 0,
    deadlineMs: context.deadlineMs,
    onUpstreamCall: context.onUpstreamCall,
  } satisfies Partial<GenerationRequest>
}

/** The sampler's seeds have 32 bits. 0 to 2^32 - 1 stay as they are; other safe integers are folded. */
const toU32 = (seed: number): number => Number(BigInt.asUintN(32, BigInt(seed) ^ (BigInt(seed) >> 32n)))

function promptInputs(prompt: CompletionRequest['prompt']): PromptInput[] {
  if (typeof prompt === 'string') return [{ text: prompt }]
  if (prompt.every((item) => typeof item === 'number')) return [{ ids: prompt }]
  return prompt.map((item) =>
    typeof item === 'string' ? { text: item } : { ids: typeof item === 'number' ? [item] : item },
  )
}

/** `true` means retrieval with all defaults. */
const ragJob = (rag: RetrievalFields | boolean | undefined, query: string): RetrievalRequest | null =>
  rag === undefined || rag === false ? null : { ...(rag === true ? {} : rag), query }
