/** POST /tokenize, /detokenize: what a prompt becomes, without generating. */
import type { PromptInput } from '../engine/request.ts'
import { ApiError, invalidRequest } from './errors.ts'
import { toChatMessage } from './job.ts'
import { readJson } from './body.ts'
import type { Handlers } from './routes.ts'
import type { ServerState } from './state.ts'
import { parseBody } from './validation.ts'
import { detokenizeRequest, tokenizeRequest } from './wire.ts'

export const remoteTokenizer = (): ApiError => new ApiError('not_supported', 'a remote engine tokenizes; ask it')

export function tokenizeHandlers(parts: {
  readonly state: ServerState
  readonly maxRequestBytes: number
}): Pick<Handlers, 'tokenize' | 'detokenize'> {
  return {
    tokenize: async (c) => {
      const body = parseBody(tokenizeRequest, await readJson(c, parts.maxRequestBytes))
      const engine = parts.state.engineFor(body.model)
      const input: PromptInput = body.messages
        ? { messages: body.messages.map(toChatMessage), tools: body.tools ?? [] }
        : { text: body.prompt ?? '' }
      const tokens = engine.encode(input, { addSpecialTokens: body.add_special_tokens ?? true })
      if (!tokens) throw remoteTokenizer()
      return c.json({ tokens, count: tokens.length, max_model_len: engine.maxModelLen })
    },
    detokenize: async (c) => {
      const body = parseBody(detokenizeRequest, await readJson(c, parts.maxRequestBytes))
      const engine = parts.state.engineFor(body.model)
      const vocabSize = engine.modelInfo?.vocabSize
      const outside = vocabSize === undefined ? undefined : body.tokens.find((token) => token >= vocabSize)
      if (outside !== undefined) {
        throw invalidRequest(`tokens: expected ids below the vocabulary's ${vocabSize}, found ${outside}`, 'tokens')
      }
      const prompt = engine.decode(body.tokens)
      if (prompt === null) throw remoteTokenizer()
      return c.json({ prompt })
    },
  }
}
