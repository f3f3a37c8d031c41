import { afterAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { createByteTokenizer, EOS } from '../../../test/engine/byte-tokenizer.ts'
import { draw } from '../../../test/engine/grammar-draw.ts'
import { collect, request } from '../../../test/engine/requests.ts'
import { openScriptedEngine } from '../../../test/engine/scripted-engine.ts'
import { createGrammarCompiler } from './grammar-compiler.ts'
import type { StructuredOutput } from '../request.ts'

const tokenizer = createByteTokenizer()
const compiler = createGrammarCompiler({ tokenizer, vocabSize: 264, eosTokenIds: [EOS] })
afterAll(() => compiler.close())

async function drawMany(structured: StructuredOutput, count: number): Promise<string[]> {
  const texts: string[] = []
  for (let seed = 1; seed <= count; seed++) {
    const text = await draw(compiler, structured, seed)
    if (text !== null) texts.push(text)
  }
  expect(texts.length).toBeGreaterThan(count / 4)
  return texts
}

describe('what finishes', () => {
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
  it('is refused when it does not compile, and the next one compiles', async () => {
    for (const structured of [
      { kind: 'regex', pattern: '(a' },
      { kind: 'grammar', ebnf: 'root ::= nowhere' },
    ] satisfies StructuredOutput[]) {
      await expect(compiler.compile(structured)).rejects.toMatchObject({
        code: 'invalid_request',
        param: 'structured_outputs',
      })
      await expect(compiler.compile(structured)).rejects.toMatchObject({ code: 'invalid_request' })
    }
    expect(await draw(compiler, { kind: 'choice', choices: ['still'] }, 1)).toBe('still')
  })
})

/** Takes long to compile, whatever the machine: a length and a pattern of which every state is a different one. */
const giant = {
  type: 'string',
  maxLength: 3900,
  pattern: '^(?:[a-c]{1,9}[d-f]{1,9}){1,60}x(?:[g-i]{1,9}[j-l]{1,9}){1,60}$',
}

describe('a grammar that takes long to compile', () => {
  it('holds up no sequence, and is broken off when nobody waits for it', async () => {
    const own = createGrammarCompiler({ tokenizer, vocabSize: 264, eosTokenIds: [EOS] })
    const abort = new AbortController()
    const known = await (await own.compile({ kind: 'choice', choices: ['ab'] })).createMatcher()
    const refused = expect(own.compile({ kind: 'json_schema', schema: giant }, 'a', abort.signal)).rejects.toThrow(
      'left',
    )
    for (const token of Buffer.from('ab')) {
      const mask = await known.mask()
      expect(mask[token >> 5]).toBe(1 << (token & 31))
      known.accept(token)
    }
    expect((await own.compile({ kind: 'choice', choices: ['ab'] })).isCached).toBe(true)
    const next = own.compile({ kind: 'choice', choices: ['cd'] })
    abort.abort(new Error('left'))
    await refused
    expect((await next).isCached).toBe(false)
    await own.close()
    await own.close()
  })

  it('is refused after a time', async () => {
    const impatient = createGrammarCompiler({ tokenizer, vocabSize: 264, eosTokenIds: [EOS], compileTimeoutMs: 1 })
    await expect(impatient.compile({ kind: 'json_schema', schema: giant })).rejects.toThrow(
      'response_format: it takes longer than 0.001 s to compile',
    )
    await impatient.close()
  })

  it('is one of a bounded number that wait, for each tenant, and tenants take turns', async () => {
    const own = createGrammarCompiler({ tokenizer, vocabSize: 264, eosTokenIds: [EOS] })
    const order: string[] = []
    const ask = (tenant: string, i: number) =>
      own.compile({ kind: 'choice', choices: [`${tenant}${i}`] }, tenant).then(() => order.push(tenant))
    const waiting = [ask('a', 0)]
    for (let i = 1; i <= 32; i++) waiting.push(ask('a', i))
    await expect(ask('a', 99)).rejects.toMatchObject({ code: 'queue_full' })
    waiting.push(ask('b', 0))
    await Promise.all(waiting)
    // Behind the one that runs and one of the other's, not behind 33.
    expect(order.indexOf('b')).toBeLessThan(3)
    await own.close()
  })

  it('shares nothing with another tenant', async () => {
    const own = createGrammarCompiler({ tokenizer, vocabSize: 264, eosTokenIds: [EOS] })
    const constraint: StructuredOutput = { kind: 'choice', choices: ['secret'] }
    expect((await own.compile(constraint, 'a')).isCached).toBe(false)
    expect((await own.compile(constraint, 'a')).isCached).toBe(true)
    expect((await own.compile(constraint, 'b')).isCached).toBe(false)
    await own.close()
  })
})

describe('the worst that fits into the bounds', () => {
  const chain = (n: number) => ({ $defs: Object.fromEntries(Array.from({ length: n }, (_, i) => [`a${i}`, i + 1 < n ? { $ref: `#/$defs/a${i + 1}` } : { type: 'null' }])), $ref: '#/$defs/a0' }) // prettier-ignore
  const cases: Record<string, StructuredOutput> = {
    'a chain of references': { kind: 'json_schema', schema: chain(1500) },
    'references from every property': { kind: 'json_schema', schema: { ...chain(600), type: 'object', properties: Object.fromEntries(Array.from({ length: 600 }, (_, i) => [`p${i}`, { $ref: `#/$defs/a${i}` }])), $ref: '#/$defs/a0' } }, // prettier-ignore
    'oneOf of thousands': { kind: 'json_schema', schema: { oneOf: Array.from({ length: 3500 }, (_, i) => ({ const: i })) } }, // prettier-ignore
    'the same type again and again': { kind: 'json_schema', schema: { type: Array(6000).fill('object'), properties: { a: {} } } }, // prettier-ignore
    'anyOf of anyOf': { kind: 'json_schema', schema: { allOf: Array.from({ length: 14 }, (_, i) => ({ anyOf: [{ minimum: i }, { maximum: -i }] })) } }, // prettier-ignore
    'classes beyond ASCII': { kind: 'regex', pattern: '[\u0080-\u027f]'.repeat(10_000) },
    'repetitions of repetitions': { kind: 'regex', pattern: '((((a{9}){9}){9}){9}){9}' },
    'exponential alternatives': { kind: 'regex', pattern: '(a|b)*a(a|b){18}' },
    'a long choice': { kind: 'choice', choices: ['a'.repeat(65_000)] },
    'deep nesting': { kind: 'regex', pattern: '('.repeat(30_000) + ')'.repeat(30_000) },
    'deep schemas': { kind: 'json_schema', schema: JSON.parse('{"items":'.repeat(3000) + '{}' + '}'.repeat(3000)) },
    'an ambiguous grammar': { kind: 'grammar', ebnf: 'root ::= ("a" | "a" root | "aa" root root)+' },
    'many rules': { kind: 'grammar', ebnf: Array.from({ length: 3000 }, (_, i) => `${i === 0 ? 'root' : `r${i}`} ::= r${i + 1}?`).join('\n') + '\nr3000 ::= "a"' }, // prettier-ignore
  }
  it.each(Object.entries(cases))('%s: an answer, or a refusal that says why', async (_name, constraint) => {
    try {
      const matcher = await (await compiler.compile(constraint)).createMatcher()
      expect((await matcher.mask()).length).toBe(9)
      matcher.close()
    } catch (error) {
      expect(error).toMatchObject({ code: 'invalid_request' })
    }
  })

  it('what is too large is refused unread', async () => {
    for (const constraint of [
      { kind: 'choice', choices: ['a'.repeat(8e6)] },
      { kind: 'json_schema', schema: { enum: Array.from({ length: 1e6 }, (_, i) => i) } },
      {
        kind: 'json_schema',
        schema: { enum: [Object.fromEntries(Array.from({ length: 1e5 }, (_, i) => [`k${i}`, 0]))] },
      },
    ] satisfies StructuredOutput[])
      await expect(compiler.compile(constraint)).rejects.toThrow('expected at most 65536 characters, found more')
  })
})

it('a model without an end token is told to have none', async () => {
  const endless = createGrammarCompiler({ tokenizer, vocabSize: 264, eosTokenIds: [] })
  await expect(endless.compile({ kind: 'json_object' })).rejects.toMatchObject({
    code: 'invalid_request',
    param: 'response_format',
    message: expect.stringContaining('eos_token_id') as string,
  })
  await endless.close()
})

it('a token past the mask is found when the next mask is asked for', async () => {
  const matcher = await (await compiler.compile({ kind: 'choice', choices: ['ab'] })).createMatcher()
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
