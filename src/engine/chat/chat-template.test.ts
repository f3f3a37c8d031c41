import { describe, expect, it } from 'vitest'
import { createChatTemplate } from './chat-template.ts'
import type { ChatMessage } from '../request.ts'

const TOKENS = { bosToken: '', eosToken: '$' }

/** ChatML, as instruction-tuned models with tools have it. */
const WITH_TOOLS = `{% if tools %}<tools>{% for t in tools %}{{ t.function.name }}{{ t.function.parameters | tojson }}{% endfor %};{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.tool_calls %}{% for c in m.tool_calls %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}{% endif %};{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}`

/** Passes over every role it does not know, as many templates do. */
const FORGETFUL = `{% if messages[0].role == 'system' %}[{{ messages[0].content }}]{% endif %}{% for m in messages %}{% if m.role == 'user' %}Q:{{ m.content | trim }}{% elif m.role == 'assistant' %}A:{{ m.content | trim }}{% endif %}{{ '\n' }}{% endfor %}`

const tool = { type: 'function', function: { name: 'add', parameters: { type: 'object' } } }
const turns: ChatMessage[] = [
  { role: 'user', content: 'what is 1 + 2?' },
  { role: 'assistant', content: '', toolCalls: [{ id: 'c1', name: 'add', arguments: '{"a": 1, "b": 2}' }] },
  { role: 'tool', content: '3', toolCallId: 'c1' },
]
const codeOf = (param: string) => expect.objectContaining({ code: 'invalid_request', param })

describe('tools', () => {
  it('reach the template, and so do calls and their results', () => {
    const template = createChatTemplate(WITH_TOOLS, TOKENS)
    expect(template.render(turns, { tools: [tool] })).toBe(
      '<tools>add{"type": "object"};<user>what is 1 + 2?;<assistant>[add {"a": 1, "b": 2}];<tool>3;<assistant>',
    )
  })

  it('are refused by name where the template has no place for them', () => {
    const template = createChatTemplate(FORGETFUL, TOKENS)
    expect(() => template.render(turns.slice(0, 1), { tools: [tool] })).toThrow(codeOf('tools'))
    expect(() => template.render(turns.slice(0, 2))).toThrow(
      "messages: the model's chat template does not support the tool calls of message 1",
    )
  })

  it('keep arguments that are not JSON as the text they are', () => {
    const call = { id: 'c', name: 'f', arguments: '{broken' }
    const template = createChatTemplate(WITH_TOOLS, TOKENS)
    expect(template.render([{ role: 'assistant', content: 'x', toolCalls: [call] }])).toContain('[f "{broken"]')
  })
})

describe('a turn that the template would pass over', () => {
  const template = createChatTemplate(FORGETFUL, TOKENS)
  const user = { role: 'user', content: 'hi' }

  it('is refused, the first time and every time', () => {
    for (let i = 0; i < 2; i++) {
      expect(() => template.render([user, { role: 'tool', content: '3' }])).toThrow(codeOf('messages'))
      expect(() => template.render([user, { role: 'tool', content: '3' }])).toThrow(
        /does not support message 1 of role tool/,
      )
      expect(() => template.render([user, { role: 'system', content: 'late' }, user])).toThrow(
        /message 1 of role system/,
      )
    }
  })

  it('is let through when it says nothing, and turns that are shown stay, the last one included', () => {
    expect(template.render([user, { role: 'tool', content: '' }])).toBe('Q:hi\n\n')
    expect(template.render([user, { role: 'assistant', content: 'yes' }])).toBe('Q:hi\nA:yes\n')
  })

  it('becomes a system turn when it is a developer’s, unless the template knows that role', () => {
    const messages = [{ role: 'developer', content: 'be brief' }, user]
    expect(template.render(messages)).toBe('[be brief]\nQ:hi\n')
    expect(template.render(messages)).toBe('[be brief]\nQ:hi\n')
    expect(createChatTemplate(WITH_TOOLS, TOKENS).render(messages)).toBe('<developer>be brief;<user>hi;<assistant>')
  })
})

describe('a template has it its own way', () => {
  const user = { role: 'user', content: 'hi' }
  const toolCalls = [{ id: 'c1', name: 'f', arguments: '{"b": 1.0, "a": 12345678901234567890}' }]
  const render = (source: string, message: object) =>
    createChatTemplate(`{% for m in messages %}${source};{% endfor %}`, TOKENS).render([
      user,
      { role: 'assistant', content: '', ...message },
    ])

  it('arguments are an object or text', () => {
    const name = '{% for c in m.tool_calls %}{{ c.function.name + c.function.arguments }}{% endfor %}{{ m.content }}'
    expect(render(name, { toolCalls })).toBe('hi;f{"b": 1.0, "a": 12345678901234567890};')
    const members = '{% for c in m.tool_calls %}{{ c.function.name }}{% for k, v in c.function.arguments | items %} {{ k }}={{ "text" if v is string else v }}{% endfor %}{% endfor %}{{ m.content }}' // prettier-ignore
    expect(render(members, { toolCalls })).toBe('hi;f b=1.0 a=12345678901234567890;')
  })

  it('a call’s id may say its name', () => {
    expect(render('{% for c in m.tool_calls %}{{ c.id }}{{ c.function.arguments | tojson }}{% endfor %}{{ m.content }}', { toolCalls })).toContain('c1{"b"') // prettier-ignore
  })

  it('thoughts of earlier turns have its name, and are left out where it refuses them', () => {
    for (const key of ['reasoning_content', 'reasoning', 'thinking'])
      expect(render(`{{ m.content }}{{ '(' + m.${key} + ')' if m.${key} }}`, { content: 'x', reasoning: 'So.' })).toBe('hi;x(So.);') // prettier-ignore
    const strict = "{% if m.thinking and m.content %}{{ raise_exception('not both') }}{% endif %}{{ m.content }}"
    expect(render(strict, { content: 'x', reasoning: 'So.' })).toBe('hi;x;')
  })

  it('words are printed as Python prints them', () => {
    expect(render("{{ m.content }}{{ none }}{{ true }}{{ false | string }}{{ none | string }}{{ missing }}{% for x in m.missing %}x{% endfor %}", {})).toBe('hiNoneTrueFalseNone;NoneTrueFalseNone;') // prettier-ignore
  })
})

it('knows only so many shapes, and asks again for one it forgot', () => {
  const template = createChatTemplate(FORGETFUL, TOKENS)
  const user = { role: 'user', content: 'hi' }
  for (let length = 1; length < 300; length++) template.render(Array.from({ length }, () => user))
  expect(() => template.render([user, { role: 'tool', content: '3' }])).toThrow(codeOf('messages'))
})

describe('arguments of earlier calls', () => {
  const show = (json: string): string => {
    const template = createChatTemplate(WITH_TOOLS, TOKENS)
    const call = { id: 'c', name: 'f', arguments: json }
    return /\[f (.*)\];/.exec(template.render([{ role: 'assistant', content: '', toolCalls: [call] }]))?.[1] ?? ''
  }

  it.each([
    '{"id": 1234567890123456789, "x": 1.0, "y": -2.50e-7, "z": 1E5}',
    '{"2": "b", "10": [1, 1.0, "3"], "1": {"b": 0, "a": 12345678901234567890.5}}',
    '{"text": "1.0 and \\"2\\": 3.0", "é": "😀"}',
  ])('come back as they were: %s', (json) => {
    expect(show(json)).toBe(json)
  })

  it('are an empty object where there are none', () => {
    for (const json of ['', ' ', 'null']) expect(show(json)).toBe('{}')
  })
})

describe('a template of a broken or hostile model', () => {
  it.each([
    ['{% for i in range(1000000000) %}x{% endfor %}', 'range() of more than'],
    ['{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}', /steps|stopped after/],
    [
      "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
      'characters',
    ],
    ['{{ messages[0].content.no_such_method() }}', 'cannot be rendered'],
  ])('is the server’s fault, and ends: %s', (source, why) => {
    const template = createChatTemplate(source, TOKENS)
    const render = () => template.render([{ role: 'user', content: 'hi' }])
    expect(render).toThrow(expect.objectContaining({ code: 'engine_error' }))
    expect(render).toThrow(why)
  })

  it('refuses a conversation in its own words, which is the caller’s fault', () => {
    const template = createChatTemplate("{{ raise_exception('roles must alternate') }}", TOKENS)
    expect(() => template.render([{ role: 'user', content: 'hi' }])).toThrow(codeOf('messages'))
  })
})
