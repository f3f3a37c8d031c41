import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { BoundedTemplate } from '../bounded-template.ts'
import { TemplateFault, TemplateRefusal } from './errors.ts'
import { renderTemplate } from './interpreter.ts'
import { jsonText, parseJson } from './json.ts'
import { parseTemplate } from './parser.ts'
import { Dict } from './values.ts'

/** From Python's jinja2: test/golden/make_jinja.py. */
const golden = JSON.parse(readFileSync(new URL('../../../../test/golden/jinja.json', import.meta.url), 'utf8')) as {
  readonly variables: string
  readonly cases: readonly { readonly template: string; readonly text?: string; readonly error?: string }[]
}
const parsed = parseJson(golden.variables)?.value
const variables = new Map(parsed instanceof Dict ? parsed.entries().map(([name, value]) => [String(name), value]) : [])
const render = (source: string): string => renderTemplate(parseTemplate(source), variables)

describe('as Python renders it', () => {
  test.each(golden.cases.filter(({ text }) => text !== undefined))('$template', ({ template, text }) => {
    expect(render(template)).toBe(text)
  })
})

describe('what fails in Python fails', () => {
  test.each(golden.cases.filter(({ error }) => error !== undefined))('$template: $error', ({ template, error }) => {
    const refuses = template.includes('raise_exception')
    expect(() => render(template), error).toThrow(refuses ? TemplateRefusal : TemplateFault)
  })
})

test('JSON keeps digits and order; what is none, or is nested beyond any use, is not read', () => {
  const value = parseJson('{"b": 1.50, "10": 12345678901234567890, "a": [-0, 1e2, true, null, "x\\u00e9"]}')?.value
  expect(value === undefined ? '' : jsonText(value, LAYOUT)).toBe(
    '{"b": 1.50, "10": 12345678901234567890, "a": [-0, 1e2, true, null, "xé"]}',
  )
  for (const text of ['{', '{"a":', 'NaN', `${'['.repeat(50_000)}${']'.repeat(50_000)}`])
    expect(parseJson(text)).toBeNull()
})

const LAYOUT = { indent: null, itemSeparator: ', ', keySeparator: ': ', sortsKeys: false, isAscii: false }

test.each([
  "{{ 'a' * 1000000000 }}",
  '{{ [0] * 1000000000 }}',
  '{{ 2 ** 1000000000 }}',
  "{{ 'a'.center(1000000000) }}",
  "{{ 'a'|indent(1000000000) }}",
  '{{ [1]|batch(1000000000, 0)|list }}',
  '{{ [1]|tojson(indent=1000000000) }}',
  "{{ 'a\\tb'.expandtabs(1000000000) }}",
  "{% set ns = namespace(t='aaaaaaaa') %}{% for i in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
  '{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}',
  '{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l|tojson }}',
  '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}',
  '{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}',
  `{{ ${'('.repeat(100_000)}1${')'.repeat(100_000)} }}`,
])('what would fill the memory or take for ever ends: %s', (source) => {
  expect(() => new BoundedTemplate(source).render({})).toThrow(TemplateFault)
})

test.each([
  '{{ m|trim|length }}',
  '{{ m.strip()|length }}',
  '{{ m|striptags|length }}',
  '{{ m|int }}',
  '{{ m|float }}',
])('takes time proportional to a text with long runs of white space, digits and brackets: %s', (source) => {
  const runs = [' '.repeat(1e6), '1'.repeat(1e6), '<'.repeat(1e6)].map((run) => `1${run}x`)
  // In quadratic time one of them takes minutes.
  for (const m of runs) expect(new BoundedTemplate(source).render({ m })).toMatch(/^[\d.]+$/)
})

test('a template with a long run of white space before a tag is parsed in time proportional to it', () => {
  const template = new BoundedTemplate(`a${' '.repeat(1e6)}b{%- set x = 1 %}`)
  expect(template.render({})).toHaveLength(1e6 + 2)
})
