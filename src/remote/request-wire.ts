/** Builds requests to OpenAI-compatible engines. */
import type { ChatMessage, GenerationRequest, PromptInput, StructuredOutput, ToolUse } from '../engine/request.ts'

/** Path and body for one prompt. @param maxModelLen a request for this many tokens leaves the limit to the remote engine */
export function remoteRequest(
  request: GenerationRequest,
  prompt: PromptInput,
  model: string,
  maxModelLen: number,
): { readonly path: string; readonly body: Record<string, unknown> } {
  const common = commonFields(request, model, maxModelLen)
  if ('messages' in prompt) {
    const continues = prompt.continueFinalMessage === true
    return {
      path: 'chat/completions',
      body: {
        ...common,
        messages: prompt.messages.map(wireMessage),
        ...(request.toolUse === undefined ? {} : toolFields(request.toolUse)),
        ...(prompt.addGenerationPrompt === false ? { add_generation_prompt: false } : {}),
        ...(continues ? { continue_final_message: true, add_generation_prompt: false } : {}),
        ...(prompt.templateArguments === undefined ? {} : { chat_template_kwargs: prompt.templateArguments }),
        ...(request.logprobs < 0 ? {} : { logprobs: true, top_logprobs: request.logprobs }),
      },
    }
  }
  return {
    path: 'completions',
    body: {
      ...common,
      prompt: 'ids' in prompt ? prompt.ids : prompt.text,
      ...(request.logprobs < 0 ? {} : { logprobs: request.logprobs }),
    },
  }
}

function toolFields({ tools, choice, parallel }: ToolUse): Record<string, unknown> {
  return {
    tools,
    ...(choice === 'auto'
      ? {}
      : { tool_choice: choice === 'required' ? choice : { type: 'function', function: { name: choice.name } } }),
    ...(parallel ? {} : { parallel_tool_calls: false }),
  }
}

function wireMessage({ toolCalls, toolCallId, ...message }: ChatMessage): Record<string, unknown> {
  return {
    ...message,
    ...(toolCallId === undefined ? {} : { tool_call_id: toolCallId }),
    ...(toolCalls === undefined
      ? {}
      : {
          tool_calls: toolCalls.map(({ id, name, arguments: args }) => ({
            id,
            type: 'function',
            function: { name, arguments: args },
          })),
        }),
  }
}

/** Only fields that differ from OpenAI's defaults: strict servers refuse fields they do not know. */
function commonFields(request: GenerationRequest, model: string, maxModelLen: number): Record<string, unknown> {
  const { sampling } = request
  const optional = (name: string, value: unknown, isDefault: boolean) => (isDefault ? {} : { [name]: value })
  return {
    model,
    stream: true,
    stream_options: { include_usage: true },
    temperature: sampling.temperature,
    top_p: sampling.topP,
    ...optional('n', request.n, request.n === 1),
    ...optional('max_tokens', request.maxTokens, request.maxTokens >= maxModelLen),
    ...optional('min_tokens', request.minTokens, request.minTokens === 0),
    ...optional('top_k', sampling.topK, sampling.topK === 0),
    ...optional('min_p', sampling.minP, sampling.minP === 0),
    ...optional('seed', sampling.seed, sampling.seed === null),
    ...optional('presence_penalty', sampling.presencePenalty, sampling.presencePenalty === 0),
    ...optional('frequency_penalty', sampling.frequencyPenalty, sampling.frequencyPenalty === 0),
    ...optional('repetition_penalty', sampling.repetitionPenalty, sampling.repetitionPenalty === 1),
    ...optional('logit_bias', sampling.logitBias, sampling.logitBias === null),
    ...optional('stop', request.stop, request.stop.length === 0),
    ...optional('stop_token_ids', request.stopTokenIds, request.stopTokenIds.length === 0),
    ...optional('include_stop_str_in_output', true, !request.includeStopString),
    ...optional('ignore_eos', true, !request.ignoreEos),
    ...optional('priority', request.priority, request.priority === 0),
    ...optional('cache_salt', request.cacheSalt, request.cacheSalt === ''),
    ...structuredFields(request.structured),
  }
}

function structuredFields(structured: StructuredOutput | null): Record<string, unknown> {
  if (structured === null) return {}
  switch (structured.kind) {
    case 'json_object':
      return { response_format: { type: 'json_object' } }
    case 'json_schema':
      return {
        response_format: {
          type: 'json_schema',
          json_schema: { name: 'answer', schema: structured.schema, strict: true },
        },
      }
    case 'regex':
      return { structured_outputs: { regex: structured.pattern } }
    case 'choice':
      return { structured_outputs: { choice: structured.choices } }
    case 'grammar':
      return { structured_outputs: { grammar: structured.ebnf } }
  }
}
