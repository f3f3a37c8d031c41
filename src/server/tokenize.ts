/** POST /tokenize and /detokenize, GET /tokenizer_info. */
import type { Engine, PromptInput } from '../engine/request.ts'
import { Slice } from '../rag/slice.ts'
import { ApiError, invalidRequest, unlessGone } from './errors.ts'
import type { Context } from 'hono'
import type { z } from 'zod'
import type { AppEnv } from './env.ts'
import { JSON_HEADERS, toJson } from './large-json.ts'
import { toChatMessage } from './job.ts'
import { readBody } from './body.ts'
import { handlersOf } from './router.ts'
import type { ServerState } from './state.ts'
import { templateArgumentsOf } from './template-arguments.ts'
import { defined } from './validation.ts'
import { detokenizeRequest, tokenizeRequest } from './wire.ts'

const remoteTokenizer = (): ApiError =>
  new ApiError('not_supported', 'the model runs on a remote engine; ask that engine to tokenize')

/** Token ids of prompts, for routes that return them. @throws ApiError if a remote engine tokenizes, or the client has gone */
export async function encodeFor(
  c: Context<AppEnv>,
  engine: Engine,
  prompts: readonly PromptInput[],
  addSpecialTokens = true,
): Promise<readonly (readonly number[])[]> {
  const { signal } = c.req.raw
  const tenant = c.get('caller').cacheSalt
  const encoded = await unlessGone(signal, engine.encode(prompts, { addSpecialTokens, tenant, signal }))
  if (!encoded) throw remoteTokenizer()
  return encoded
}

/** Handlers of `/tokenize`, `/detokenize` and `/tokenizer_info`. */
export function tokenizeHandlers(state: ServerState) {
  return handlersOf({
    tokenize: async (c) => {
      const body = await readBody(c, tokenizeRequest)
      return state.withModel(body.model, c.req.raw.signal, async ({ engine }) => {
        const encoded = await encodeFor(c, engine, promptsOf(body, engine), body.add_special_tokens)
        const isList = Array.isArray(body.prompt)
        const answer = {
          tokens: isList ? encoded : encoded[0],
          count: encoded.reduce((sum, ids) => sum + ids.length, 0),
          max_model_len: engine.maxModelLen,
        }
        if (body.return_token_strs !== true) return c.body(await toJson(answer), 200, JSON_HEADERS)
        const strings = await stringsOf(encoded, engine)
        return c.body(await toJson({ ...answer, token_strs: isList ? strings : strings[0] }), 200, JSON_HEADERS)
      })
    },
    describeTokenizer: (c) =>
      state.withModel(undefined, c.req.raw.signal, ({ engine: { tokenizer } }) => {
        if (!tokenizer) throw remoteTokenizer()
        return c.json({
          tokenizer_class: 'PreTrainedTokenizerFast',
          bos_token: tokenizer.bosToken,
          eos_token: tokenizer.eosToken,
          pad_token: null,
          chat_template: tokenizer.chatTemplate,
        })
      }),
    detokenize: async (c) => {
      const body = await readBody(c, detokenizeRequest)
      return state.withModel(body.model, c.req.raw.signal, async ({ engine }) => {
        const vocabSize = engine.modelInfo?.vocabSize
        const outside = vocabSize === undefined ? undefined : body.tokens.find((token) => token >= vocabSize)
        if (outside !== undefined) {
          throw invalidRequest(`tokens: expected ids below the vocabulary's ${vocabSize}, found ${outside}`, 'tokens')
        }
        const { signal } = c.req.raw
        const tenant = c.get('caller').cacheSalt
        const prompt = await unlessGone(signal, engine.decode(body.tokens, { tenant, signal }))
        if (prompt === null) throw remoteTokenizer()
        return c.json({ prompt })
      })
    },
  })
}

/** The text of each token. */
async function stringsOf(encoded: readonly (readonly number[])[], engine: Engine): Promise<readonly string[][]> {
  // Even a text of millions of tokens has only thousands of different ones.
  const known = new Map<number, string>()
  const texts: string[][] = []
  const slice = new Slice()
  for (const ids of encoded) {
    const strings: string[] = []
    for (const id of ids) {
      let text = known.get(id)
      if (text === undefined) {
        text = (await engine.decode([id])) ?? ''
        known.set(id, text)
        if (slice.isOver) await slice.end()
      }
      strings.push(text)
    }
    if (slice.isOver) await slice.end()
    texts.push(strings)
  }
  return texts
}

function promptsOf(body: z.output<typeof tokenizeRequest>, engine: Engine): PromptInput[] {
  const { messages, tools = [], prompt = '', add_generation_prompt: opens, continue_final_message: continues } = body
  if (!messages) return (typeof prompt === 'string' ? [prompt] : prompt).map((text) => ({ text }))
  const templateArguments = templateArgumentsOf(body, engine.tokenizer?.chatTemplate ?? null)
  return [
    defined({
      messages: messages.map(toChatMessage),
      tools,
      continueFinalMessage: continues ?? false,
      addGenerationPrompt: opens,
      templateArguments: templateArguments ?? undefined,
    }),
  ]
}
