/** POST /tokenize, /detokenize: what a prompt becomes, without generating. */
import type { Engine, PromptInput } from '../engine/request.ts'
import { Slice } from '../rag/slice.ts'
import { ApiError, invalidRequest } from './errors.ts'
import type { z } from 'zod'
import { toChatMessage } from './job.ts'
import { readJson } from './body.ts'
import type { Handlers } from './routes.ts'
import type { ServerState } from './state.ts'
import { templateArgumentsOf } from './template-arguments.ts'
import { parseBody } from './validation.ts'
import { detokenizeRequest, tokenizeRequest } from './wire.ts'

export const remoteTokenizer = (): ApiError => new ApiError('not_supported', 'a remote engine tokenizes; ask it')

export function tokenizeHandlers(parts: {
  readonly state: ServerState
  readonly maxRequestBytes: number
}): Pick<Handlers, 'tokenize' | 'detokenize' | 'describeTokenizer'> {
  return {
    tokenize: async (c) => {
      const body = parseBody(tokenizeRequest, await readJson(c, parts.maxRequestBytes))
      const engine = parts.state.engineFor(body.model)
      const addSpecialTokens = body.add_special_tokens ?? true
      const encoded: (readonly number[])[] = []
      const slice = new Slice()
      for (const input of promptsOf(body, engine)) {
        if (slice.isOver) await slice.end()
        const ids = engine.encode(input, { addSpecialTokens })
        if (!ids) throw remoteTokenizer()
        encoded.push(ids)
      }
      const isList = Array.isArray(body.prompt)
      const strings = (ids: readonly number[]) =>
        ids.map((id) => engine.decode([id], { skipSpecialTokens: false }) ?? '')
      return c.json({
        tokens: isList ? encoded : encoded[0],
        count: encoded.reduce((sum, ids) => sum + ids.length, 0),
        max_model_len: engine.maxModelLen,
        ...(body.return_token_strs ? { token_strs: isList ? encoded.map(strings) : strings(encoded[0] ?? []) } : {}),
      })
    },
    describeTokenizer: (c) => {
      const { tokenizer } = parts.state.requireEngine()
      if (!tokenizer) throw remoteTokenizer()
      return c.json({
        tokenizer_class: 'PreTrainedTokenizerFast',
        bos_token: tokenizer.bosToken,
        eos_token: tokenizer.eosToken,
        pad_token: null,
        chat_template: tokenizer.chatTemplate,
      })
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

function promptsOf(body: z.output<typeof tokenizeRequest>, engine: Engine): PromptInput[] {
  const { messages, tools = [], prompt = '', add_generation_prompt: opens, continue_final_message: continues } = body
  if (!messages) return (typeof prompt === 'string' ? [prompt] : prompt).map((text) => ({ text }))
  const templateArguments = templateArgumentsOf(body, engine.tokenizer?.chatTemplate ?? null)
  return [
    {
      messages: messages.map(toChatMessage),
      tools,
      continueFinalMessage: continues ?? false,
      ...(opens === undefined ? {} : { addGenerationPrompt: opens }),
      ...(templateArguments === null ? {} : { templateArguments }),
    },
  ]
}
