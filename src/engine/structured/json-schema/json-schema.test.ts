import { readFileSync } from 'node:fs'
import { Ajv2020 } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'
import { afterAll, describe, expect, it } from 'vitest'
import { createByteTokenizer, EOS } from '../../../../test/engine/byte-tokenizer.ts'
import { draw, isWhole } from '../../../../test/engine/grammar-draw.ts'
import { createRandom } from '../../../../test/engine/random.ts'
import { createGrammarCompiler } from '../grammar-compiler.ts'

const compiler = createGrammarCompiler({ tokenizer: createByteTokenizer(), vocabSize: 264, eosTokenIds: [EOS] })
afterAll(() => compiler.close())

const ajv = new Ajv2020({ strict: false, allErrors: true, multipleOfPrecision: 9 })
addFormats.default(ajv)
for (const unknown of ['idn-email', 'iri', 'path', 'base64', 'ulid', 'e164']) ajv.addFormat(unknown, true)

async function expectValid(schema: unknown, count: number): Promise<string[]> {
  const validate = ajv.compile(schema as Record<string, unknown>)
  const texts: string[] = []
  for (let seed = 1; seed <= count; seed++) {
    const text = await draw(compiler, { kind: 'json_schema', schema }, seed, { closing: '"]},:.mdfox', maxBytes: 2000 })
    if (text === null) continue
    texts.push(text)
    expect(
      validate(JSON.parse(text)),
      `${JSON.stringify(schema)} let through ${text}: ${ajv.errorsText(validate.errors)}`,
    ).toBe(true)
  }
  expect(texts.length, `nothing finished for ${JSON.stringify(schema)}`).toBeGreaterThan(0)
  return texts
}

/** As Zod 4 (z.toJSONSchema) and Pydantic write them. */
const everyday: Record<string, unknown> = {
  'z.int()': { type: 'integer', minimum: -9007199254740991, maximum: 9007199254740991 },
  'z.int32()': { type: 'integer', minimum: -2147483648, maximum: 2147483647 },
  'a port': { type: 'integer', minimum: 1, maximum: 65535 },
  'ge=2': { type: 'integer', minimum: 2 },
  'z.number().min(0).max(1)': { type: 'number', minimum: 0, maximum: 1 },
  'z.number().positive()': { type: 'number', exclusiveMinimum: 0 },
  'gt -2.5, lt 3.75': { type: 'number', exclusiveMinimum: -2.5, exclusiveMaximum: 3.75 },
  'tiny and huge': { type: 'number', minimum: 1e-7, maximum: 1e21 },
  'z.float32()': { type: 'number', minimum: -3.4028234663852886e38, maximum: 3.4028234663852886e38 },
  'multiples of 5': { type: 'integer', minimum: -37, multipleOf: 5 },
  'multiples of 0.05': { type: 'number', multipleOf: 0.05, minimum: 0, maximum: 10 },
  'z.email()': {
    type: 'string',
    format: 'email',
    pattern: "^(?!\\.)(?!.*\\.\\.)([A-Za-z0-9_'+\\-\\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\\-]*\\.)+[A-Za-z]{2,}$",
  },
  'z.iso.time()': { type: 'string', pattern: '^(?:[01]\\d|2[0-3]):[0-5]\\d(?::[0-5]\\d(?:\\.\\d+)?)?$' },
  'z.iso.duration()': { type: 'string', format: 'duration' },
  HttpUrl: { type: 'string', format: 'uri', minLength: 1, maxLength: 2083 },
  'a short address': { type: 'string', format: 'uri', maxLength: 40 },
  'z.email().min().max()': { type: 'string', format: 'email', minLength: 10, maxLength: 254 },
  'an email address beside a pattern': { type: 'string', format: 'email', pattern: '@example\\.com$' },
  'a counted host name': { type: 'string', format: 'hostname', minLength: 5, maxLength: 12 },
  'control characters': { type: 'string', pattern: '^\\n\\cA[\\0\\x1f\\t]\\x00$' },
  'names of control characters': {
    type: 'object',
    patternProperties: { '^\\x01$': { type: 'integer' } },
    additionalProperties: false,
    minProperties: 1,
  },
  'min and regex': { type: 'string', minLength: 3, maxLength: 5, pattern: '^[a-z]+$' },
  'a pattern of quotes': { type: 'string', pattern: '^[ -~]{1,4}$' },
  'z.record(z.string(), z.int())': {
    type: 'object',
    propertyNames: { type: 'string' },
    additionalProperties: { type: 'integer', minimum: 0, maximum: 9 },
  },
  'z.record(z.enum())': {
    type: 'object',
    propertyNames: { type: 'string', enum: ['a', 'b'] },
    additionalProperties: { type: 'boolean' },
    required: ['a'],
  },
  'properties within propertyNames': {
    type: 'object',
    properties: { ab: { type: 'null' }, 'x y': { type: 'null' } },
    propertyNames: { pattern: '^[a-z]{1,3}$' },
    additionalProperties: { type: 'boolean' },
    minProperties: 1,
  },
  'no names': { type: 'object', properties: { a: { type: 'null' } }, propertyNames: false },
  catchall: {
    type: 'object',
    properties: { id: { type: 'integer' }, 'ex"tra': { type: 'null' } },
    required: ['id'],
    additionalProperties: { type: 'string', maxLength: 2 },
  },
  patternProperties: { type: 'object', patternProperties: { '^x-': { type: 'integer' } }, additionalProperties: false },
  nullable: { type: 'string', nullable: true, maxLength: 2 },
  annotations: { type: 'string', format: 'password', 'x-order': 1, strict: true, maxLength: 3, uniqueItems: false },
  'unique enum': { type: 'array', uniqueItems: true, minItems: 2, items: { enum: ['a', 'b', 'c'] } },
  'optional first': {
    type: 'object',
    properties: { a: { type: 'null' }, b: { type: 'null' }, c: { type: 'null' }, d: { type: 'null' } },
    required: ['c'],
    additionalProperties: false,
  },
  'counted properties': {
    type: 'object',
    properties: { a: { type: 'null' }, b: { type: 'null' }, c: { type: 'null' } },
    minProperties: 1,
    maxProperties: 2,
  },
  allOf: {
    allOf: [{ $ref: '#/$defs/base' }, { properties: { n: { minimum: 3 } }, required: ['n'] }],
    $defs: { base: { type: 'object', properties: { n: { type: 'integer', maximum: 5 } } } },
  },
  'anyOf beside type and bounds': { type: 'integer', minimum: 3, anyOf: [{ maximum: 1 }, { maximum: 7 }] },
  'refs by pointer': {
    type: 'object',
    properties: { a: { type: 'string', maxLength: 1 }, b: { $ref: '#/properties/a' } },
    required: ['a', 'b'],
  },
  'a tree': {
    $ref: '#/$defs/n',
    $defs: { n: { type: 'object', properties: { l: { type: 'array', items: { $ref: '#/$defs/n' }, maxItems: 2 } } } },
  },
  'names with any character': {
    type: 'object',
    properties: { 'quote"\n\\é😀': { const: 'v"\n😀' } },
    required: ['quote"\n\\é😀'],
  },
  dependent: {
    type: 'object',
    properties: { a: { type: 'null' }, b: { type: 'null' } },
    dependentRequired: { a: ['b'] },
  },
  'a tuple': {
    type: 'array',
    prefixItems: [{ type: 'integer' }, { type: 'boolean' }],
    items: { type: 'null' },
    maxItems: 3,
  },
}

const schemas: unknown = JSON.parse(
  readFileSync(new URL('../../../../test/engine/schemas.json', import.meta.url), 'utf8'),
)
const names = (count: number) => Array.from({ length: count }, (_, i) => `p${i}`)
const nulls = (count: number) => Object.fromEntries(names(count).map((name) => [name, { type: 'null' }]))
/** Every keyword of the standard, alone and beside others. */
const keywords: Record<string, unknown> = {
  ...(schemas as Record<string, unknown>),
  'huge enum': { enum: Array.from({ length: 3000 }, (_, i) => `value number ${i}`) },
  'huge enum of integers': { enum: Array.from({ length: 3000 }, (_, i) => i * 7) },
  'keys of any character': { type: 'object', properties: Object.fromEntries(['ключ', '😀', 'a\u0000b', '"', ''].map((name) => [name, { type: 'null' }])), required: ['ключ', '😀', 'a\u0000b', '"', ''] }, // prettier-ignore
  'many properties': { type: 'object', properties: nulls(300) },
  'many required': { type: 'object', properties: nulls(100), required: names(100).filter((_, i) => i % 5 === 0), additionalProperties: false }, // prettier-ignore
  'deep nesting': Array.from({ length: 40 }).reduce<unknown>((inner) => ({ type: 'object', properties: { a: inner }, required: ['a'] }), { type: 'null' }), // prettier-ignore
}

describe('what finishes validates', () => {
  it.each(Object.entries(everyday))('%s', async (_name, schema) => {
    await expectValid(schema, 8)
  })

  it.each(Object.entries(keywords))('%s', async (_name, schema) => {
    expect((await compiler.compile({ kind: 'json_schema', schema, isStrict: true })).warnings).toEqual([])
    await expectValid(schema, 4)
  })

  it('bounds of any size, drawn at random', async () => {
    const random = createRandom(7)
    for (let i = 0; i < 60; i++) {
      const magnitude = () => (random.next() - 0.5) * 10 ** Math.floor(random.next() * 12 - 4)
      const [a = 0, b = 0] = [magnitude(), magnitude()].toSorted((x, y) => x - y)
      const low = random.next() < 0.5 ? { minimum: a } : { exclusiveMinimum: a }
      const high = random.next() < 0.5 ? { maximum: b } : { exclusiveMaximum: b }
      await expectValid(
        { type: 'number', ...(random.next() < 0.8 ? low : {}), ...(random.next() < 0.8 ? high : {}) },
        3,
      )
      if (Math.floor(b) > Math.ceil(a)) await expectValid({ type: 'integer', minimum: a, maximum: b }, 3)
    }
  })

  it('schemas drawn at random', async () => {
    for (let seed = 1; seed <= 40; seed++) await expectValid(randomSchema(createRandom(seed), 3), 3)
  })
})

it('conditions drawn at random are enforced, said not to be, or refused where nothing small satisfies them', async () => {
  const small = [
    null,
    true,
    0,
    1,
    2,
    3,
    0.5,
    '',
    'a',
    'ab',
    [],
    [null],
    [1],
    {},
    { a: 1 },
    { b: 'a' },
    { a: null, b: 1 },
  ]
  let numEnforced = 0
  for (let seed = 1; seed <= 80; seed++) {
    const random = createRandom(seed)
    const schema = randomCondition(random)
    const validate = ajv.compile(schema)
    const compiled: unknown = await compiler.compile({ kind: 'json_schema', schema }).catch((error: unknown) => error)
    if (compiled instanceof Error) {
      expect(
        small.filter((value) => validate(value)),
        JSON.stringify(schema),
      ).toEqual([])
      continue
    }
    const { warnings } = await compiler.compile({ kind: 'json_schema', schema })
    if (warnings.length > 0) continue
    await expectValid(schema, 2)
    numEnforced++
  }
  expect(numEnforced).toBeGreaterThan(40)
})

/** A schema of one value with what it must not be, or what else it must be. */
function randomCondition(random: Random): Record<string, unknown> {
  const inner = () => randomSchema(random, 1)
  const base = randomSchema(random, 1)
  return random.pick<() => Record<string, unknown>>([
    () => ({ ...base, not: inner() }),
    () =>
      Object.fromEntries([...Object.entries(base), ...['if', 'then', 'else'].map((name) => [name, inner()] as const)]),
    () => ({ oneOf: [base, inner()] }),
    () => ({ type: 'array', items: base, contains: inner(), maxItems: 2 }),
    () => ({ type: 'object', properties: { a: base, b: inner() }, dependentSchemas: { a: { required: ['b'] } } }),
  ])()
}

type Random = ReturnType<typeof createRandom>

function randomSchema(random: Random, depth: number): Record<string, unknown> {
  const leaves = [
    () => ({ type: 'string', maxLength: 4 }),
    () => ({ type: 'integer', minimum: random.pick([-5, 0, 3]), maximum: random.pick([3, 100, 12345]) }),
    () => ({ type: 'number', exclusiveMinimum: random.pick([-1.5, 0]), maximum: random.pick([0.25, 7]) }),
    () => ({ enum: ['a', 1, null, 'é"'] }),
    () => ({ type: ['boolean', 'null'] }),
    () => ({ type: 'string', pattern: random.pick(['^a+$', '[0-9]{2}', 'x$']) }),
    () => ({ type: 'string', format: random.pick(['date', 'uuid', 'ipv4']) }),
  ]
  if (depth === 0 || random.next() < 0.3) return random.pick(leaves)()
  const inner = () => randomSchema(random, depth - 1)
  switch (random.pick(['object', 'array', 'anyOf', 'allOf'])) {
    case 'object': {
      const names = ['a', 'b', 'c'].slice(0, 1 + Math.floor(random.next() * 3))
      return {
        type: 'object',
        properties: Object.fromEntries(names.map((name) => [name, inner()])),
        required: names.filter(() => random.next() < 0.5),
        ...random.pick([{}, { additionalProperties: false }, { additionalProperties: { type: 'null' } }]),
      }
    }
    case 'array':
      return { type: 'array', items: inner(), minItems: random.pick([0, 1]), maxItems: 2 }
    case 'anyOf':
      return { anyOf: [inner(), inner()] }
    default:
      return { allOf: [inner(), {}] }
  }
}

describe('a pattern means what the standard says', () => {
  it.each([
    ['^https?://', ['https://a.b/ü?x="', 'http://'], ['ftp://a', ' https://a']],
    ['.*\\.md$', ['a.md', '.md', 'ü/x.md'], ['a.md ', 'amd']],
    ['foo', ['foo', 'a foo b'], ['fo', 'oof']],
    ['^a|b$', ['a', 'axx', 'xxb'], ['xa', 'bx']],
    ['^(?!.*--)[a-z-]+$', ['a-b', '-'], ['a--b', '']],
    ['^\\x41\\u00e9\\p{Lu}$', ['AéZ', 'AéÄ'], ['Aéz', 'Ae']],
    ['^[^"\\s]{2}$', ['ab', 'é😀'], ['a"', 'a b']],
  ])('%s', async (pattern, matching, others) => {
    const { createMatcher } = await compiler.compile({ kind: 'json_schema', schema: { type: 'string', pattern } })
    const takes = async (text: string) => isWhole(await createMatcher(), JSON.stringify(text))
    for (const text of matching) expect(await takes(text), text).toBe(true)
    for (const text of others) expect(await takes(text), text).toBe(false)
  })
})

it('the names of what every JavaScript object has are names like others', async () => {
  const schema: unknown = JSON.parse(
    `{"type": "object", "required": ["constructor", "__proto__", "toString", "valueOf"], "additionalProperties": false,
      "properties": {"constructor": {"type": "integer", "not": {"constructor": 1, "minimum": 5}}, "__proto__": {"type": "boolean"},
        "toString": {"enum": ["a", "b"]}, "valueOf": {"$ref": "#/$defs/hasOwnProperty"}},
      "$defs": {"hasOwnProperty": {"not": {"toString": {}, "type": ["string", "number", "object", "array", "boolean"]}}}}`,
  )
  for (let seed = 1; seed <= 8; seed++) {
    const text = (await draw(compiler, { kind: 'json_schema', schema }, seed)) ?? ''
    expect(text).toMatch(
      /"constructor": ?(-\d+|[0-4]),\s*"__proto__": ?(true|false),\s*"toString": ?"[ab]",\s*"valueOf": ?null/,
    )
  }
  const pattern: unknown = JSON.parse(
    '{"type": "object", "patternProperties": {"^__proto__$": {"type": "null"}}, "minProperties": 1}',
  )
  expect(await draw(compiler, { kind: 'json_schema', schema: pattern }, 1)).toMatch(/"__proto__": ?null/)
})

it('only whole characters of Unicode are written', async () => {
  const { createMatcher } = await compiler.compile({ kind: 'regex', pattern: '[\\s\\S]' })
  const follows = async (bytes: readonly number[]) => {
    const matcher = await createMatcher()
    for (const byte of bytes) matcher.accept(byte)
    const mask = await matcher.mask()
    matcher.close()
    return Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => ((mask[byte >> 5] ?? 0) >>> (byte & 31)) & 1)
  }
  const isPrefix = (bytes: readonly number[]) => {
    const tail = [0x80, 0x90, 0xa0, 0xbf].flatMap((a) => [[a], [a, 0x80], [a, 0x80, 0x80]])
    return [[], ...tail].some((more) =>
      Buffer.from(Buffer.from([...bytes, ...more]).toString()).equals(Buffer.from([...bytes, ...more])),
    )
  }
  const leads = Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => isPrefix([byte]))
  expect(await follows([])).toEqual(leads)
  for (const lead of [0xc2, 0xdf, 0xe0, 0xe1, 0xed, 0xef, 0xf0, 0xf1, 0xf4]) {
    const seconds = Array.from({ length: 256 }, (_, byte) => byte).filter(
      (byte) => isPrefix([lead, byte]) && byte >= 0x80,
    )
    expect(await follows([lead]), lead.toString(16)).toEqual(seconds)
  }
})

it('choices that begin and end alike are kept apart', async () => {
  const random = createRandom(3)
  const texts = (n: number): string[] =>
    Array.from({ length: n }, () =>
      Array.from({ length: 1 + Math.floor(random.next() * 4) }, () => random.pick(['a', 'b', 'é', 'è'])).join(''),
    )
  for (let i = 0; i < 60; i++) {
    const choices = [...new Set(texts(7))]
    for (let seed = 1; seed <= 6; seed++)
      expect(choices).toContain(await draw(compiler, { kind: 'choice', choices }, seed, { closing: '' }))
  }
})

describe('a range holds all of its integers', () => {
  it.each([
    [1, 65535, ['1', '9', '10', '65535', '60000']],
    [-12, 7, ['-12', '-9', '0', '7']],
  ])('%i … %i', async (minimum, maximum, texts) => {
    const { createMatcher } = await compiler.compile({
      kind: 'json_schema',
      schema: { type: 'integer', minimum, maximum },
    })
    for (const text of texts) {
      const matcher = await createMatcher()
      for (const byte of Buffer.from(text)) matcher.accept(byte)
      const mask = await matcher.mask()
      expect(((mask[EOS >> 5] ?? 0) >>> (EOS & 31)) & 1, text).toBe(1)
      matcher.close()
    }
  })
})

it('white space ends, everywhere', async () => {
  for (const schema of [
    {},
    { type: 'object' },
    { type: 'array' },
    { type: 'object', properties: { a: {} }, required: ['a'] },
  ]) {
    const matcher = await (await compiler.compile({ kind: 'json_schema', schema })).createMatcher()
    let numSpaces = 0
    for (const byte of Buffer.from(schema.type === 'array' ? '[' : '{')) matcher.accept(byte)
    for (;;) {
      const mask = await matcher.mask()
      const space = [...Buffer.from(' \n\t\r')].find((byte) => ((mask[byte >> 5] ?? 0) >>> (byte & 31)) & 1)
      if (space === undefined) break
      matcher.accept(space)
      expect(++numSpaces).toBeLessThan(40)
    }
    matcher.close()
  }
})

describe('what cannot be enforced', () => {
  it.each([
    { type: 'array', items: { const: 1 }, maxItems: 1e6 },
    { type: 'array', contains: { const: 1 }, maxContains: 1e6 },
    { type: 'object', additionalProperties: { const: 1 }, maxProperties: 1e6 },
    { type: 'string', maxLength: 1e6 },
  ])('is no upper bound that no answer reaches: %j', async (schema) => {
    expect((await compiler.compile({ kind: 'json_schema', schema, isStrict: true })).warnings).toEqual([])
  })

  it.each([
    [{ type: 'array', uniqueItems: true }, '"uniqueItems" at #'],
    [{ type: 'object', properties: { 'a/b': { not: { format: 'date' } } } }, '"not" at #/properties/a~1b'],
    [{ oneOf: [{ type: 'object', propertyNames: { minLength: 1 } }, { type: 'object' }] }, '"oneOf"'],
    [{ if: { uniqueItems: true }, else: { type: 'string' } }, '"if" at #'],
    [{ type: 'string', pattern: '(?<=a)b' }, '"pattern" with a look-behind at #'],
    [{ type: 'string', pattern: '\\bfoo' }, '"pattern" with "\\b", a word boundary at #'],
    [{ type: 'string', pattern: '(a)\\1' }, '"pattern" with a reference to a group at #'],
    [{ type: 'string', format: 'regex' }, '"format" regex at #'],
    [{ type: 'integer', multipleOf: 3001 }, '"multipleOf" of more than 2000 remainders at #'],
    [{ type: 'object', additionalProperties: { type: 'null' }, minProperties: 2 }, '"minProperties" of free keys at #'],
    [{ type: 'array', prefixItems: [{}], contains: { type: 'integer' } }, '"contains" at #'],
    [{ type: 'array', items: { const: 1 }, minItems: 1e6 }, '"minItems" above 20000 at #'],
    [{ type: 'array', contains: { const: 1 }, minContains: 1e6 }, '"minContains" above 64 at #'],
    [{ type: 'array', contains: { const: 1 }, minItems: 100 }, '"minItems" above 64 beside "contains" at #'],
    [{ type: 'string', minLength: 1e6 }, '"minLength" above 20000 at #'],
  ])('is refused by name under strict, and said otherwise: %j', async (schema, name) => {
    const strict = compiler.compile({ kind: 'json_schema', schema, isStrict: true })
    await expect(strict).rejects.toMatchObject({ code: 'invalid_request', param: 'response_format' })
    await expect(strict).rejects.toThrow(`response_format: the schema cannot be enforced: ${name}`)
    const { warnings } = await compiler.compile({ kind: 'json_schema', schema })
    expect(warnings.join()).toContain(name)
  })

  it.each([
    [{ $ref: 'https://example.com/schema.json' }, '"$ref"'],
    [{ $ref: '#' }, '"$ref" that leads to itself'],
    [{ type: 'integer', minimum: 4, maximum: 3 }, 'bounds that leave no integer'],
    [{ type: 'object', properties: { age: { type: 'wrong' } } }, '"type" that is none of JSON’s at #/properties/age'],
    // String() and Number() fail for such an object.
    [{ type: { toString: 1 } }, '"type" that is none of JSON’s at #'],
    [{ type: 'object', required: [{ toString: 1 }] }, '"properties" or "required" of a wrong type at #'],
    [{ enum: [{}], minProperties: { toString: 1 }, required: [{ toString: 1 }] }, '"enum" or "const" without a value'],
    [{ enum: [] }, '"enum"'],
    [{ type: 'string', minLength: 3, maxLength: 2 }, '"minLength" above "maxLength"'],
    [false, 'nothing matches the schema'],
    [{ type: 'object', properties: { a: { $ref: '#' } }, required: ['a'] }, 'no output that it allows is finite'],
    [{ type: 'object', properties: { a: false }, required: ['a'] }, 'a required property that nothing can be at #'],
    [{ type: 'array', items: { const: 1 }, uniqueItems: true, minItems: 2 }, 'nothing matches the schema'],
  ])('is refused where nothing could be valid: %j', async (schema, name) => {
    const error: unknown = await compiler.compile({ kind: 'json_schema', schema }).catch((error: unknown) => error)
    expect(error).toMatchObject({ code: 'invalid_request', param: 'response_format' })
    expect(String(error)).toContain(name)
  })
})
