import { afterAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { createByteTokenizer, EOS } from '../../../test/engine/byte-tokenizer.ts'
import { createRandom } from '../../../test/engine/random.ts'
import { collect, request } from '../../../test/engine/requests.ts'
import { openScriptedEngine } from '../../../test/engine/scripted-engine.ts'
import { createGrammarCompiler } from './grammar.ts'
import type { StructuredOutput } from '../request.ts'

const tokenizer = createByteTokenizer()
const compiler = createGrammarCompiler({ tokenizer, vocabSize: 264, eosTokenIds: [EOS] })
afterAll(() => compiler.close())

/** Bytes that some bytes may not follow, which the library does not know: what they would begin is read as several characters. */
const STRAY_BYTES = new Set([0xe0, 0xed, 0xf0, 0xf4])

/**
 * Draws among the allowed tokens alone, which is what a temperature without end does; characters that close things are preferred, or
 * strings and lists would go on for ever. Null: not finished within the bound.
 */
async function draw(structured: StructuredOutput, seed: number): Promise<string | null> {
  const random = createRandom(seed)
  const matcher = await compiler.createMatcher(structured)
  const tokens: number[] = []
  const closing = [EOS, ...Buffer.from('"]},:')]
  try {
    while (tokens.length < 600) {
      const mask = await matcher.mask()
      const allowed = Array.from({ length: 264 }, (_, token) => token).filter(
        (token) => !STRAY_BYTES.has(token) && ((mask[token >> 5] ?? 0) >>> (token & 31)) & 1,
      )
      const preferred = closing.filter((token) => allowed.includes(token))
      const token = preferred.length > 0 && random.next() < 0.4 ? random.pick(preferred) : random.pick(allowed)
      matcher.accept(token)
      if (token === EOS) return tokenizer.decode(tokens)
      tokens.push(token)
    }
    return null
  } finally {
    matcher.close()
  }
}

async function drawMany(structured: StructuredOutput, count: number): Promise<string[]> {
  const texts: string[] = []
  for (let seed = 1; seed <= count; seed++) {
    const text = await draw(structured, seed)
    if (text !== null) texts.push(text)
  }
  expect(texts.length).toBeGreaterThan(count / 4)
  return texts
}

const schemas: Record<string, Record<string, unknown>> = {
  'an object': {
    type: 'object',
    properties: {
      name: { type: 'string', minLength: 1, maxLength: 8 },
      age: { type: 'integer', minimum: 0, maximum: 130 },
      tags: { type: 'array', items: { type: 'string' }, maxItems: 2 },
    },
    required: ['name', 'age'],
  },
  'extra properties allowed': {
    type: 'object',
    properties: { a: { type: 'integer' } },
    additionalProperties: true,
    required: ['a', 'z'],
  },
  'free keys': { type: 'object', additionalProperties: { type: 'boolean' }, maxProperties: 2 },
  'values and unions': {
    type: 'array',
    minItems: 1,
    maxItems: 3,
    items: { anyOf: [{ enum: ['x', 1, null] }, { type: ['boolean', 'null'] }, { const: 'v"\\' }] },
  },
  'a discriminated union': {
    oneOf: [
      {
        type: 'object',
        properties: { kind: { const: 'a' }, n: { type: 'number', minimum: 0 } },
        required: ['kind', 'n'],
      },
      {
        type: 'object',
        properties: { kind: { const: 'b' }, s: { type: 'string', maxLength: 3 } },
        required: ['kind', 's'],
      },
    ],
  },
  recursion: {
    $ref: '#/$defs/node',
    $defs: {
      node: {
        type: 'object',
        properties: { v: { type: 'integer' }, next: { anyOf: [{ type: 'null' }, { $ref: '#/$defs/node' }] } },
        required: ['v', 'next'],
      },
    },
  },
  'patterns that could leave the string': {
    type: 'array',
    items: {
      anyOf: [
        { type: 'string', pattern: '^.{1,4}$' },
        { type: 'string', pattern: '[^a]b\\d+' },
        { type: 'string', pattern: '[\\^a]{2}' },
      ],
    },
    maxItems: 3,
  },
  'fixed places': { type: 'array', prefixItems: [{ type: 'integer' }, { type: 'string', maxLength: 2 }], items: false },
  formats: {
    type: 'object',
    properties: { day: { type: 'string', format: 'date' }, id: { type: 'string', format: 'uuid' } },
    required: ['day', 'id'],
  },
}

describe('what finishes', () => {
  it.each(Object.entries(schemas))('parses and validates: %s', async (_name, schema) => {
    const validator = z.fromJSONSchema(schema)
    for (const text of await drawMany({ kind: 'json_schema', schema }, 12)) {
      // Lengths are counted in characters; the validator counts UTF-16 units.
      const result = validator.safeParse(JSON.parse(text.replaceAll(/[\u{10000}-\u{10ffff}]/gu, 'x')))
      expect(result.success, `${text}: ${result.error?.message}`).toBe(true)
    }
  })

  it('is a JSON object for json_object', async () => {
    for (const text of await drawMany({ kind: 'json_object' }, 12)) expect(JSON.parse(text)).toBeTypeOf('object')
  })

  it('is one of the choices, or matches the pattern or the grammar', async () => {
    const choices = ['yes', 'no "maybe"\n', 'é\\']
    for (const text of await drawMany({ kind: 'choice', choices }, 12)) expect(choices).toContain(text)
    for (const text of await drawMany({ kind: 'regex', pattern: '[a-f]{2}-\\d{1,3}' }, 12))
      expect(text).toMatch(/^[a-f]{2}-\d{1,3}$/)
    for (const text of await drawMany({ kind: 'grammar', ebnf: 'root ::= "a" root "b" | "c"' }, 12)) {
      expect(text).toMatch(/^a*cb*$/)
      expect(text.split('a').length).toBe(text.split('b').length)
    }
  })
})

describe('what cannot be enforced', () => {
  it.each([
    [{ type: 'array', uniqueItems: true }, '"uniqueItems" at #'],
    [{ type: 'object', properties: { a: { not: { type: 'string' } } } }, '"not" at #/properties/0'],
    [{ type: 'string', secret: 1 }, ': an unknown keyword at #'],
    [{ type: 'integer', multipleOf: 5 }, '"multipleOf"'],
    [{ allOf: [{ type: 'integer' }, { minimum: 3 }] }, '"allOf"'],
    [{ oneOf: [{ type: 'integer' }, { type: 'number' }] }, '"oneOf"'],
    [{ type: 'object', patternProperties: { '^x': {} } }, '"patternProperties"'],
    [{ type: 'string', pattern: '^a*$', maxLength: 3 }, '"maxLength" beside "pattern"'],
    [{ type: 'string', pattern: '(?=a)b' }, '"pattern"'],
    [{ type: 'string', pattern: '[ -~]+' }, '"pattern"'],
    [{ type: 'string', format: 'made-up' }, '"format"'],
    [{ $ref: 'https://example.com/schema.json' }, '"$ref"'],
    [{ $ref: '#' }, '"$ref" that leads to itself'],
    [{ type: 'integer', minimum: 4, maximum: 3 }, '"minimum", "maximum"'],
    [{ type: 'integer', minimum: 5 }, '"minimum"'],
    [{ type: 'number', maximum: 2.5 }, '"maximum" of a "number"'],
    [{ anyOf: [{ type: 'integer' }], type: 'string' }, '"type" beside "anyOf"'],
    [{ type: 'wrong' }, '"type"'],
    [{ enum: [] }, '"enum"'],
    [false, 'false'],
  ])('is refused by name: %j', async (schema, name) => {
    const error: unknown = await compiler
      .createMatcher({ kind: 'json_schema', schema })
      .catch((error: unknown) => error)
    expect(error).toMatchObject({ code: 'invalid_request', param: 'response_format' })
    expect(String(error)).toContain(name)
  })

  it('is refused when it does not compile, and the next one compiles', async () => {
    for (const structured of [
      { kind: 'regex', pattern: '(a' },
      { kind: 'grammar', ebnf: 'root ::= nowhere' },
    ] satisfies StructuredOutput[]) {
      await expect(compiler.createMatcher(structured)).rejects.toMatchObject({
        code: 'invalid_request',
        param: 'structured_outputs',
      })
      await expect(compiler.createMatcher(structured)).rejects.toMatchObject({ code: 'invalid_request' })
    }
    expect(await draw({ kind: 'choice', choices: ['still'] }, 1)).toBe('still')
  })
})

/** Takes the library many seconds to compile, whatever the machine. */
const giant = {
  type: 'object',
  properties: Object.fromEntries(
    Array.from({ length: 300 }, (_, i) => [`property${i}`, { type: 'string', maxLength: 50 }]),
  ),
}

describe('a grammar that takes long to compile', () => {
  it('holds up no other grammar and no other sequence, and is broken off when nobody waits for it', async () => {
    const own = createGrammarCompiler({ tokenizer, vocabSize: 264, eosTokenIds: [EOS] })
    const abort = new AbortController()
    const known = await own.createMatcher({ kind: 'choice', choices: ['ab'] })
    let isSettled = false
    const slow = own
      .createMatcher({ kind: 'json_schema', schema: giant }, abort.signal)
      .finally(() => (isSettled = true))
    const refused = expect(slow).rejects.toThrow('left')
    // The sequence goes on and new ones of its grammar begin while the compilation runs.
    for (const token of Buffer.from('ab')) {
      const mask = await known.mask()
      expect(mask[token >> 5]).toBe(1 << (token & 31))
      known.accept(token)
    }
    const another = await own.createMatcher({ kind: 'choice', choices: ['ab'] })
    expect((await another.mask()).some((word) => word !== 0)).toBe(true)
    // A new grammar waits behind it in the queue, until the one before is given up.
    const next = own.createMatcher({ kind: 'choice', choices: ['cd'] })
    expect(isSettled).toBe(false)
    abort.abort(new Error('left'))
    await refused
    expect((await (await next).mask()).some((word) => word !== 0)).toBe(true)
    await own.close()
    await own.close()
  })

  it('is refused after a time, and gets a thread of its own when it is merely slow', async () => {
    const impatient = createGrammarCompiler({ tokenizer, vocabSize: 264, eosTokenIds: [EOS], compileTimeoutMs: 300 })
    await expect(impatient.createMatcher({ kind: 'json_schema', schema: giant })).rejects.toThrow(
      'response_format: it takes longer than 0.3 s to compile',
    )
    expect((await (await impatient.createMatcher({ kind: 'json_object' })).mask()).length).toBe(9)
    await impatient.close()

    // Everything is slow here: more grammars than there may be threads, the oldest of which go when their sequences have ended.
    const slow = createGrammarCompiler({ tokenizer, vocabSize: 264, eosTokenIds: [EOS], slowMs: -1 })
    const first = await slow.createMatcher({ kind: 'choice', choices: ['first'] })
    for (let i = 0; i < 6; i++) (await slow.createMatcher({ kind: 'choice', choices: [`${i}`] })).close()
    expect((await first.mask()).some((word) => word !== 0)).toBe(true)
    first.close()
    await slow.close()
  })

  it('is one of a bounded number that wait', async () => {
    const own = createGrammarCompiler({ tokenizer, vocabSize: 264, eosTokenIds: [EOS] })
    const waiting = [own.createMatcher({ kind: 'json_schema', schema: giant })]
    for (let i = 0; i < 64; i++) waiting.push(own.createMatcher({ kind: 'choice', choices: [`${i}`] }))
    const outcomes = Promise.allSettled(waiting)
    await expect(own.createMatcher({ kind: 'choice', choices: ['more'] })).rejects.toMatchObject({ code: 'queue_full' })
    await own.close()
    for (const outcome of await outcomes) expect(outcome).toMatchObject({ reason: { code: 'shutdown' } })
  })
})

it('a model without an end token is told to have none', async () => {
  const endless = createGrammarCompiler({ tokenizer, vocabSize: 264, eosTokenIds: [] })
  await expect(endless.createMatcher({ kind: 'json_object' })).rejects.toMatchObject({
    code: 'invalid_request',
    param: 'response_format',
    message: expect.stringContaining('eos_token_id') as string,
  })
  await endless.close()
})

it('a token past the mask is found when the next mask is asked for', async () => {
  const matcher = await compiler.createMatcher({ kind: 'choice', choices: ['ab'] })
  matcher.accept(Buffer.from('x')[0] ?? 0)
  await expect(matcher.mask()).rejects.toThrow("was drawn past the grammar's mask")
  matcher.close()
  matcher.close()
})

describe('in the engine', () => {
  const schema: Record<string, unknown> = {
    type: 'object',
    properties: { a: { type: 'string', maxLength: 4 }, b: { enum: ['x', 'y'] } },
    required: ['a', 'b'],
  }
  const start = (runAhead: 0 | 1) =>
    openScriptedEngine(
      { runAhead, speculation: true },
      { vocabSize: 264, eosTokenIds: [EOS], isDeferred: true },
      tokenizer,
    ).engine

  it('every seed at temperature 1.5 gives a valid answer or is cut with length, the same alone and among others', async () => {
    const engine = start(1)
    const seeds = Array.from({ length: 8 }, (_, seed) => seed)
    const structured = (seed: number) =>
      request({
        maxTokens: 60,
        structured: { kind: 'json_schema', schema },
        sampling: {
          temperature: 1.5,
          seed,
          logitBias: Object.fromEntries([...STRAY_BYTES].map((byte) => [byte, -100])),
        },
      })
    const free = collect(engine, request({ maxTokens: 60, ignoreEos: true }))
    const together = await Promise.all(seeds.map((seed) => collect(engine, structured(seed))))
    await free
    const validator = z.fromJSONSchema(schema)
    const finished = together.filter((result) => result.reasons[0] === 'stop')
    expect(finished.length).toBeGreaterThan(2)
    for (const { texts } of finished) {
      const value: unknown = JSON.parse((texts[0] ?? '').replaceAll(/[\u{10000}-\u{10ffff}]/gu, 'x'))
      expect(validator.safeParse(value).success, texts[0]).toBe(true)
    }
    for (const result of together) expect(['stop', 'length']).toContain(result.reasons[0])
    const alone = start(0)
    expect((await collect(alone, structured(3))).tokenIds).toEqual(together[3]?.tokenIds)
    await Promise.all([engine.close(), alone.close()])
  })

  it('a request aborted while its grammar compiles is never queued', async () => {
    const engine = start(1)
    const abort = new AbortController()
    const stream = engine.submit(request({ structured: { kind: 'json_object' } }), abort.signal)
    const first = stream.next()
    abort.abort()
    expect((await first).done).toBe(true)
    const refused = collect(engine, request({ structured: { kind: 'regex', pattern: '(' } }))
    await expect(refused).rejects.toMatchObject({ code: 'invalid_request' })
    expect(engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0 })
    await engine.close()
  })
})
