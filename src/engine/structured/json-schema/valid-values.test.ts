import { afterAll, expect, it } from 'vitest'
import { createByteTokenizer, EOS } from '../../../../test/engine/byte-tokenizer.ts'
import { isWhole } from '../../../../test/engine/grammar-draw.ts'
import { createGrammarCompiler } from '../grammar-compiler.ts'

const compiler = createGrammarCompiler({ tokenizer: createByteTokenizer(), vocabSize: 264, eosTokenIds: [EOS] })
afterAll(() => compiler.close())

async function isAccepted(schema: unknown, text: string): Promise<boolean> {
  const { warnings, createMatcher } = await compiler.compile({ kind: 'json_schema', schema })
  expect(warnings).toEqual([])
  return isWhole(await createMatcher(), text)
}

const format = (name: string, more: object = {}) => ({ type: 'string', format: name, ...more })
const closed = (properties: object) => ({
  type: 'object',
  properties,
  required: Object.keys(properties),
  additionalProperties: false,
})
const ADDRESS = 'https://www.example.com/2024/01/15/a-long-path-to_an/article-about(things).html?q=a+b&lang=en#part'

/** What a model would write, and what it must not. */
const cases: readonly (readonly [schema: unknown, valid: readonly unknown[], invalid: readonly unknown[]])[] = [
  [format('date'), ['2024-02-29', '2000-02-29', '2025-12-31'], ['2023-02-29', '1900-02-29', '0000-01-01']],
  [format('date-time'), ['2024-02-29T23:59:59.123456789Z'], ['2025-01-02T03:04:05']],
  [format('uuid'), ['00000000-0000-0000-0000-000000000000', '12345678-1234-1234-1234-123456789012'], ['1234']],
  [format('uuid4'), ['123e4567-e89b-42d3-a456-426614174000'], ['123e4567-e89b-12d3-a456-426614174000']],
  [format('ipv6'), ['2001:db8::1', '::1', '::', 'fe80::1:2', '::ffff:10.0.0.1', '1:2:3:4:5:6:7:8'], ['1::2::3', '1:2']],
  [format('email'), ["o'neil+x@mail.example.co.uk", 'a.b.c.d.e.f@a-b.org'], ["o'@a.org", 'a..b@a.org', '.a@a.org']],
  [format('email', { maxLength: 100 }), ['first.middle.last@mail.department.university-of-x.edu'], []],
  [format('hostname'), ['localhost', 'a-b.example.org'], ['-a', 'a..b']],
  [format('uri'), [ADDRESS, 'http://localhost:8080/x', 'https://10.0.0.1/%20a', 'ftp://a.org'], ['a b', '/a']],
  [format('uri', { minLength: 1, maxLength: 2083 }), [ADDRESS], ['a']],
  [format('uri', { maxLength: 110 }), [ADDRESS], [`${ADDRESS}aaaaaaaaaaaaaaaaaaaa`]],
  [format('uri', { pattern: '^https://www\\.' }), [ADDRESS], ['https://a.org']],
  [format('uri-reference'), ['../a/b?c#d', '/a', 'a?b', ADDRESS], ['a b']],
  [{ type: 'string', pattern: '\\A\\d+\\z' }, ['12'], ['12a', 'a12']],
  [{ type: 'string', pattern: '(?i)^abc$' }, ['aBC'], ['abcd']],
  [{ type: 'integer' }, [1234567890123456768, -1], []],
  [{ type: 'number' }, [1e21, 1.25e300, -0.1234567890123456], []],
  [{ type: 'number', minimum: 0, maximum: 1 }, [0.1234567890123456, 1e-7, 1], [-1e-7, 1.5, 10]],
  [{ type: 'number', exclusiveMinimum: 0, exclusiveMaximum: 0.5 }, [1e-7, 0.0099, 0.499], [0.5, 0]],
  [{ type: 'number', minimum: -3, maximum: -0.001 }, [-2.5, -1e-2], [-1e-7]],
  [{ type: 'integer', multipleOf: 1000 }, [5000, 0, -21000], [500, 1001]],
  [{ type: 'integer', multipleOf: 3600, minimum: 1 }, [3600, 86_400], [0, 1800]],
  [{ type: 'array', uniqueItems: true, items: { enum: ['a', 'b', 'c'] } }, [['c', 'a'], []], [['a', 'a']]],
  [{ type: 'array', uniqueItems: true, maxItems: 1, items: { type: 'boolean' } }, [[false]], [[false, true]]],
  [{ const: { a: [1, { b: 'x' }] } }, [{ a: [1, { b: 'x' }] }], [{ a: [1] }]],
  [{ oneOf: [closed({ a: {} }), closed({ b: {} }), { type: 'null' }] }, [{ a: 1 }, { b: 1 }, null], [{}]],
  [{ oneOf: [closed({ t: { const: 'a' } }), { enum: ['b', 1] }, { type: 'null' }] }, [{ t: 'a' }, 'b', null], ['a']],
  [
    { type: 'object', patternProperties: { '^n_': { type: 'integer' } }, additionalProperties: { type: 'string' } },
    [{ n_a: 1, b: 'x' }, { b: 'x' }],
    [{ n_a: 'x' }, { b: 1 }],
  ],
  [
    {
      type: 'object',
      minProperties: 1,
      allOf: [{ patternProperties: { '^n': { type: 'integer' } } }, { additionalProperties: { minimum: 3 } }],
    },
    [{ n: 3 }],
    [{ n: 2 }],
  ],
  [
    {
      $id: 'https://example.org/a/root.json',
      type: 'array',
      items: { $ref: 'https://example.org/a/item.json' },
      $defs: {
        i: {
          $id: 'item.json',
          type: 'object',
          properties: { n: { $ref: '#/$defs/n' } },
          required: ['n'],
          $defs: { n: { $ref: '/n#n' } },
        },
        n: { $id: '/n', $defs: { n: { $anchor: 'n', const: 1 } } },
      },
    },
    [[{ n: 1 }]],
    [[{ n: 2 }]],
  ],
]

it.each(cases)('%j', async (schema, valid, invalid) => {
  for (const value of valid) {
    expect(await isAccepted(schema, JSON.stringify(value)), JSON.stringify(value)).toBe(true)
    expect(await isAccepted(schema, JSON.stringify(value, null, 2)), JSON.stringify(value, null, 2)).toBe(true)
  }
  for (const value of invalid)
    expect(await isAccepted(schema, JSON.stringify(value)), JSON.stringify(value)).toBe(false)
})
