/** POST /v1/messages and /v1/messages/count_tokens. */
import { readBody } from '../body.ts'
import { type GenerationParts, handleGeneration } from '../completions.ts'
import { chatJob, toChatMessage } from '../job.ts'
import { handlersOf } from '../router.ts'
import { encodeFor } from '../tokenize.ts'
import { promptOf, messagesToChat } from './job.ts'
import { messagesShape } from './shape.ts'
import { countTokensRequest, messagesRequest } from './wire.ts'

/** Handlers of `/v1/messages` and `/v1/messages/count_tokens`. */
export function messagesHandlers(parts: GenerationParts) {
  return handlersOf({
    createMessage: (c) =>
      handleGeneration(c, parts, messagesRequest, (body, context) => {
        const format = body.output_config?.format === undefined ? 'output_format' : 'output_config.format'
        const job = chatJob(messagesToChat(body), context, {
          prompt: 'messages',
          format,
          parameters: 'input_schema',
          toolName: 'tool_choice.name',
        })
        return { job, shape: () => messagesShape(job) }
      }),
    countMessageTokens: async (c) => {
      const body = promptOf(await readBody(c, countTokensRequest))
      const { model, messages, tools = [], continue_final_message: continueFinalMessage } = body
      const prompt = { messages: messages.map(toChatMessage), tools, continueFinalMessage }
      return parts.state.withModel(model, c.req.raw.signal, async ({ engine }) => {
        const [ids] = await encodeFor(c, engine, [prompt])
        return c.json({ input_tokens: ids?.length ?? 0 })
      })
    },
  })
}
