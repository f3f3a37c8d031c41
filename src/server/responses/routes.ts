/** POST /v1/responses, and reading and deleting stored responses. */
import type { Context } from 'hono'
import type { AppEnv } from '../env.ts'
import { ApiError, invalidRequest } from '../errors.ts'
import { type GenerationParts, handleGeneration } from '../completions.ts'
import { type ChatFields, chatJob } from '../job.ts'
import { JSON_HEADERS, toJson } from '../large-json.ts'
import { handlersOf } from '../router.ts'
import type { ChatMessageFields } from '../wire.ts'
import { addItem, inputMessages, responsesToChat } from './job.ts'
import { type ResponseObject, responsesShape } from './shape.ts'
import { ResponseStore, type StoredResponse } from './store.ts'
import { responsesRequest, withItemTypes } from './wire.ts'

const FIELDS: ChatFields = {
  prompt: 'input',
  format: 'text.format',
  parameters: 'parameters',
  toolName: 'tool_choice.name',
}

/** Handlers of `/v1/responses` and `/v1/responses/{id}`. */
export function responsesHandlers(parts: GenerationParts) {
  const store = new ResponseStore()

  const stored = (c: Context<AppEnv>, id: string, param: string): StoredResponse => {
    const found = store.get(c.get('caller').keyId, id)
    if (found !== null) return found
    throw new ApiError(
      'response_not_found',
      `${param}: expected the id of a response that this key made and this process still keeps, found another`,
      { param },
    )
  }

  return handlersOf({
    createResponse: (c) =>
      handleGeneration(
        c,
        parts,
        responsesRequest,
        (body, context) => {
          const previous = body.previous_response_id
          const known = previous === undefined ? null : stored(c, previous, 'previous_response_id')
          const earlier = known?.messages ?? []
          const trace = c.get('trace')
          if (known !== null && trace.conversationId === null) trace.setConversation(known.conversationId)
          const conversationId = trace.conversationId ?? context.requestId
          // A stored response may have a next turn.
          if (body.store !== false) trace.setConversation(conversationId)
          const job = chatJob(responsesToChat(body, earlier), context, FIELDS)
          const { keyId } = c.get('caller')
          const keep = (response: ResponseObject) => {
            if (body.store === false) return
            const messages = [...earlier, ...inputMessages(body.input), ...outputMessages(response)]
            store.put(keyId, { response, messages, conversationId })
          }
          return { job, shape: () => responsesShape(job, body, keep) }
        },
        withItemTypes,
      ),
    getResponse: async (c) => {
      // A client that asked for events would read none in a JSON body, and no error.
      if (c.req.query('stream') === 'true')
        throw invalidRequest('stream: expected false, because a stored response is whole, found true', 'stream')
      return c.body(await toJson(stored(c, c.req.param('id') ?? '', 'id').response), 200, JSON_HEADERS)
    },
    deleteResponse: (c) => {
      const id = c.req.param('id') ?? ''
      stored(c, id, 'id')
      store.delete(c.get('caller').keyId, id)
      return c.json({ id, object: 'response', deleted: true })
    },
  })
}

/** The assistant's output, as messages for the prompt of the next turn. */
function outputMessages({ output }: ResponseObject): ChatMessageFields[] {
  const messages: ChatMessageFields[] = []
  for (const item of output) addItem(messages, item)
  return messages
}
