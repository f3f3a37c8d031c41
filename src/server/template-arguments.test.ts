import { expect, it } from 'vitest'
import { templateArgumentsOf } from './template-arguments.ts'

const argumentsOf = (source: string | null, given: Readonly<Record<string, unknown>>) =>
  templateArgumentsOf({ chat_template_kwargs: given }, source)

it('takes the words of the template, whole ones only', () => {
  expect(argumentsOf('{{ style.tone }}', { tone: 'dry' })).toEqual({ tone: 'dry' })
  expect(argumentsOf(null, { tone: 'dry' })).toEqual({ tone: 'dry' })
  expect(() => argumentsOf('{{ baritone }}', { tone: 'dry' })).toThrow('chat_template_kwargs: expected variables')
})

it.each([['a'.repeat(100_000)], ['constructor'], ['(a'], [''], ['1a']])('refuses a name of %#', (name) => {
  expect(() => argumentsOf('{{ a }}', { [name]: 1 })).toThrow('chat_template_kwargs: expected variables')
})

it('sets `thinking` where the template calls the switch so, and not where messages have a member of that name', () => {
  expect(argumentsOf('{% if thinking %}', { enable_thinking: false })).toEqual({
    enable_thinking: false,
    thinking: false,
  })
  expect(argumentsOf('{{ message.thinking }} {{ enable_thinking }}', { enable_thinking: false })).toEqual({
    enable_thinking: false,
  })
})
