/**
 * Streams in vLLM's form, field by field as its OpenAI-compatible server documents them
 * (https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html): what reaches the client of them.
 */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, it } from 'vitest'
import { collect, request } from '../../test/engine/requests.ts'
import type { GenerationRequest, TokenEvent } from '../engine/request.ts'
import { createRemoteEngine } from './connect.ts'

const cleanups: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup()
})

/** An engine over a server that answers every request with this body. */
async function serving(body: string) {
  const server = createServer((incoming, response) => {
    incoming.resume()
    if (incoming.method === 'POST')
      response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' }).end(body)
    else response.end(JSON.stringify({ object: 'list', data: [{ id: 'm', object: 'model', max_model_len: 4096 }] }))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const engine = await createRemoteEngine({ urls: [`http://127.0.0.1:${port}`], apiKey: null, model: null })
  cleanups.push(async () => {
    await engine.close()
    server.closeAllConnections()
    server.close()
    await once(server, 'close')
  })
  return engine
}

const answered = async (body: string, fields: Partial<GenerationRequest> = {}) =>
  collect(await serving(body), request(fields))

const head = { id: 'chatcmpl-b2f1a5e07c4d4f0d', object: 'chat.completion.chunk', created: 1764350000, model: 'm' }
const stream = (...chunks: unknown[]) =>
  `${chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join('')}data: [DONE]\n\n`
const delta = (fields: object, more: object = {}, index = 0) => ({
  ...head,
  choices: [{ index, delta: fields, logprobs: null, finish_reason: null, token_ids: null, ...more }],
})
const role = { ...delta({ role: 'assistant', content: '' }), prompt_token_ids: null }
const finish = (reason: string, stopReason: unknown = null, index = 0) =>
  delta({ content: '' }, { finish_reason: reason, stop_reason: stopReason }, index)
const usage = (prompt: number, completion: number, cached: number | null = null) => ({
  ...head,
  choices: [],
  usage: {
    prompt_tokens: prompt,
    total_tokens: prompt + completion,
    completion_tokens: completion,
    prompt_tokens_details: cached === null ? null : { cached_tokens: cached },
  },
})
const tokens = (events: readonly { type: string }[]) =>
  events.filter((event): event is TokenEvent => event.type === 'token')

describe('an answer of vLLM', () => {
  it('begins with a role, ends with an empty piece, and has its usage in a chunk without choices', async () => {
    const result = await answered(
      stream(role, delta({ content: 'Hel' }), delta({ content: 'lo' }), finish('stop'), usage(12, 3, 4)),
    )
    expect(result).toMatchObject({ texts: ['Hello'], reasons: ['stop'] })
    expect(result.events.findLast(({ type }) => type === 'prompt')).toMatchObject({ numTokens: 12 })
    expect(result.events.at(-1)).toMatchObject({
      type: 'finished',
      stopReason: null,
      counters: { numPromptTokens: 12, numCachedTokens: 4, numGeneratedTokens: 3 },
    })
  })

  it('that has no [DONE] is one all the same', async () => {
    const body = stream(role, delta({ content: 'Hello' }), finish('length'), usage(12, 1)).replace('data: [DONE]', ':')
    expect(await answered(body)).toMatchObject({ texts: ['Hello'], reasons: ['length'] })
  })

  it.each([
    ['a string', '\n\n'],
    ['a token', 128009],
    ['the end token', null],
  ])('says that %s stopped it', async (_, stopReason) => {
    const { events } = await answered(stream(role, delta({ content: 'a' }), finish('stop', stopReason), usage(1, 1)))
    expect(events.at(-1)).toMatchObject({ type: 'finished', reason: 'stop', stopReason })
  })

  it('with the usage in every chunk, as continuous_usage_stats has it, counts the last one', async () => {
    const counted = (chunk: object, completion: number) => ({ ...chunk, usage: usage(7, completion).usage })
    const { events } = await answered(
      stream(
        counted(role, 0),
        counted(delta({ content: 'a b' }), 2),
        counted(delta({ content: ' c d' }), 4),
        counted(finish('stop'), 5),
        usage(7, 5),
      ),
    )
    expect(events.at(-1)).toMatchObject({ counters: { numPromptTokens: 7, numGeneratedTokens: 5 } })
  })

  it('with two choices in turn, each with its own end, has one usage', async () => {
    const { texts, reasons, events } = await answered(
      stream(
        role,
        delta({ role: 'assistant', content: '' }, {}, 1),
        delta({ content: 'a' }),
        delta({ content: 'x' }, {}, 1),
        finish('stop'),
        delta({ content: 'y' }, {}, 1),
        finish('length', null, 1),
        usage(7, 6),
      ),
      { n: 2 },
    )
    expect({ texts, reasons }).toEqual({ texts: ['a', 'xy'], reasons: ['stop', 'length'] })
    const ended = events.filter((event) => event.type === 'finished')
    expect(ended.reduce((sum, { counters }) => sum + counters.numGeneratedTokens, 0)).toBe(6)
  })

  it('with fields of a disaggregated server, and with token ids, is read past the ones and keeps the others', async () => {
    const { texts, events } = await answered(
      stream(
        {
          ...role,
          prompt_token_ids: [1, 2, 3],
          kv_transfer_params: { do_remote_decode: true, remote_block_ids: [4, 5], remote_engine_id: 'e' },
          service_tier: null,
          system_fingerprint: null,
          prompt_logprobs: null,
        },
        delta({ content: 'a b' }, { token_ids: [64, 293] }),
        finish('stop'),
        { ...usage(3, 3), kv_transfer_params: null },
      ),
    )
    expect(texts).toEqual(['a b'])
    expect(tokens(events).map(({ tokenIds }) => tokenIds)).toEqual([[64, 293]])
  })

  it('in the form of completions has texts, ids of the prompt and log-probabilities side by side', async () => {
    const piece = (text: string, more: object = {}) => ({
      id: 'cmpl-1',
      object: 'text_completion',
      created: 1,
      model: 'm',
      choices: [{ index: 0, text, logprobs: null, finish_reason: null, stop_reason: null, ...more }],
      usage: null,
    })
    const logprobs = {
      text_offset: [0],
      token_logprobs: [-0.25],
      tokens: [' a'],
      top_logprobs: [{ ' a': -0.25, ' b': -9999 }],
    }
    const { texts, events } = await answered(
      stream(
        piece(' a', { logprobs, prompt_token_ids: [1, 2], token_ids: null }),
        piece('', { finish_reason: 'stop', stop_reason: 5 }),
        usage(2, 1),
      ),
      { logprobs: 2 },
    )
    expect(texts).toEqual([' a'])
    expect(tokens(events)[0]?.logprobs?.[0]).toMatchObject({ token: ' a', top: [{ token: ' a' }, { token: ' b' }] })
  })

  it.each(['reasoning', 'reasoning_content'])(
    'keeps %s apart, also where it is null beside the content',
    async (name) => {
      const { texts, events } = await answered(
        stream(
          role,
          delta({ [name]: 'hm' }),
          delta({ [name]: 'm', content: null }),
          delta({ [name]: null, content: 'yes' }),
          finish('stop'),
          usage(2, 4),
        ),
      )
      expect(texts).toEqual(['yes'])
      expect(
        tokens(events)
          .map(({ reasoning }) => reasoning ?? '')
          .join(''),
      ).toBe('hmm')
    },
  )

  it.each([
    ['with an index', [0, 0, 0, 1, 1]],
    ['without an index', [undefined, undefined, undefined, undefined, undefined]],
    ['with the index 0 for each', [0, 0, 0, 0, 0]],
  ])('keeps two calls of functions apart that come %s', async (_, indexes) => {
    const calls = [
      { id: 'chatcmpl-tool-1', type: 'function', function: { name: 'weather', arguments: '' } },
      { function: { arguments: '{"city": ' } },
      { function: { arguments: '"Oslo"}' } },
      { id: 'chatcmpl-tool-2', type: 'function', function: { name: 'time', arguments: '' } },
      { function: { arguments: '{}' } },
    ]
    const { events } = await answered(
      stream(
        role,
        ...calls.map((call, i) =>
          delta({ tool_calls: [{ ...call, ...(indexes[i] === undefined ? {} : { index: indexes[i] }) }] }),
        ),
        finish('tool_calls'),
        usage(20, 12),
      ),
    )
    const texts = new Map<number, string>()
    for (const { index, name, arguments: args } of tokens(events).flatMap(({ toolCalls }) => toolCalls ?? []))
      texts.set(index, `${texts.get(index) ?? ''}${name ?? ''}${args}`)
    expect([...texts]).toEqual([
      [0, 'weather{"city": "Oslo"}'],
      [1, 'time{}'],
    ])
  })
})

describe('an error of vLLM in place of a chunk', () => {
  const failure = { message: 'the prompt: secret', type: 'InternalServerError', param: null, code: 500 }
  it.each<[string, object, string]>([
    ['of the server', { error: failure }, 'upstream_error'],
    ['without an envelope', { object: 'error', ...failure }, 'upstream_error'],
    ['of the request', { error: { ...failure, type: 'BadRequestError', code: 400 } }, 'invalid_request'],
    ['of the request, without an envelope', { object: 'error', ...failure, code: 400 }, 'invalid_request'],
    [
      'of a prompt that is too long',
      { error: { message: "This model's maximum context length is 4096 tokens", type: 'BadRequestError', code: 400 } },
      'context_length_exceeded',
    ],
  ])('%s is the end of the request, and not quoted', async (_, chunk, code) => {
    for (const before of [[], [role, delta({ content: 'a' })]]) {
      const error: unknown = await answered(stream(...before, chunk)).catch((thrown: unknown) => thrown)
      expect(error).toMatchObject({ code })
      expect(String(error)).not.toContain('secret')
    }
  })

  it('as the reason of an end is an error', async () => {
    await expect(answered(stream(role, delta({ content: 'a' }), finish('error')))).rejects.toMatchObject({
      code: 'upstream_error',
    })
  })
})
