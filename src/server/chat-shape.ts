/** The responses of /v1/chat/completions. */
import type { ToolCallDelta } from '../engine/request.ts'
import { type Call, finishReason, tailOf } from './generation-result.ts'
import type { GenerationJob } from './job.ts'
import { chatLogprobs, promptLogprobs } from './logprobs.ts'
import { openAiEnd, type Shape, textFrames, chunkFrames } from './output.ts'
import { dataFrame } from './sse.ts'
import { StreamCounts } from './stream-counts.ts'

/** Formats a generation as chat completion objects and chunks. */
export function chatShape(job: GenerationJob): Shape {
  const head = { id: job.requestId, created: job.created, model: job.model, system_fingerprint: job.fingerprint }
  const chunk = (index: number, delta: object, more: object = {}) => ({
    ...head,
    object: 'chat.completion.chunk',
    choices: [{ index, delta, logprobs: null, finish_reason: null, ...more }],
  })
  const wantsLogprobs = job.shown.logprobs >= 0
  const names = { top: job.shown.logprobs, asIds: job.tokensAsIds }
  const counts = new StreamCounts(job)
  const textFrame = textFrames((index, text) => chunk(index, { content: text }))
  const callers = new Set<number>()
  let isOpen = false
  const open = (more: object) => {
    if (isOpen) return ''
    isOpen = true
    return Array.from({ length: job.shown.choices }, (_, index) =>
      dataFrame({ ...chunk(index, { role: 'assistant', content: '' }), ...counts.usage(index), ...more }),
    ).join('')
  }
  return {
    body: (result, citations) => ({
      ...head,
      object: 'chat.completion',
      choices: result.shown.map((c, index) => ({
        index,
        message: {
          role: 'assistant',
          content: c.text === '' && c.hasCalls ? null : c.text,
          refusal: null,
          ...thoughtOf(c.reasoning),
          ...(c.hasCalls ? { tool_calls: c.calls.map(wireCall) } : {}),
        },
        logprobs: wantsLogprobs ? chatLogprobs(c.logprobs, names) : null,
        finish_reason: finishReason(c),
        stop_reason: c.finished?.stopReason ?? null,
        ...(job.returnTokenIds ? { token_ids: c.tokenIds } : {}),
      })),
      ...(job.returnTokenIds ? { prompt_token_ids: result.promptIds[0] } : {}),
      ...(job.promptLogprobs < 0
        ? {}
        : { prompt_logprobs: promptLogprobs(result.promptLogprobs[0] ?? [], job.promptLogprobs) }),
      ...tailOf(result, citations),
    }),
    // If the first chunk describes the prompt, it has to wait for it.
    opening: () => (job.returnTokenIds || job.continuousUsage ? '' : open({})),
    prompt: (event) => {
      counts.addPrompt(event)
      return open(job.returnTokenIds ? { prompt_token_ids: event.tokenIds } : {})
    },
    echo: () => '',
    token: (event) => {
      const { toolCalls, reasoning = '' } = event
      if (toolCalls !== undefined) callers.add(event.choice)
      else if (counts.isPlain && reasoning === '') return event.text === '' ? '' : textFrame(event)
      counts.addToken(event)
      if (toolCalls === undefined && reasoning === '' && counts.isEmpty(event)) return ''
      const delta = {
        ...thoughtOf(reasoning),
        ...(event.text === '' && (toolCalls !== undefined || reasoning !== '') ? {} : { content: event.text }),
        ...(toolCalls === undefined ? {} : { tool_calls: toolCalls.map(wireDelta) }),
      }
      const more = {
        ...(wantsLogprobs && event.logprobs ? { logprobs: chatLogprobs(event.logprobs, names) } : {}),
        ...(job.returnTokenIds ? { token_ids: event.tokenIds } : {}),
      }
      return chunkFrames(event.logprobs?.length ?? 0, {
        ...chunk(event.choice, delta, more),
        ...counts.usage(event.choice),
      })
    },
    finished: (event, tail) =>
      dataFrame({
        ...chunk(
          event.choice,
          {},
          {
            finish_reason: finishReason({ finished: event, hasCalls: callers.has(event.choice) }),
            stop_reason: event.stopReason,
          },
        ),
        ...counts.usage(event.choice),
        ...tail,
      }),
    closing: (result, citations) =>
      job.includeUsage
        ? dataFrame({ ...head, object: 'chat.completion.chunk', choices: [], ...tailOf(result, citations) })
        : '',
    ...openAiEnd,
  }
}

/** Clients read one of these two names. */
const thoughtOf = (reasoning: string) => (reasoning === '' ? {} : { reasoning_content: reasoning, reasoning })

const wireCall = ({ id, name, arguments: args }: Call) => ({
  id,
  type: 'function',
  function: { name, arguments: args },
})

/** The first piece of a call has its id, type and name. */
const wireDelta = ({ index, id, name, arguments: args }: ToolCallDelta) =>
  id === null
    ? { index, function: { arguments: args } }
    : { index, id, type: 'function', function: { name, arguments: args } }
