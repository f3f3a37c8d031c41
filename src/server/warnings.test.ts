import { expect, it } from 'vitest'
import { addWarning } from './warnings.ts'

it.each([
  ['"format" at #/properties/name', '"format" at #/properties/name'],
  ['"format" at #/properties/größe', '"format" at #/properties/gr\\u00f6\\u00dfe'],
  ['"format" at #/properties/名', '"format" at #/properties/\\u540d'],
  ['"format" at #/properties/a\r\nX-Evil: 1', '"format" at #/properties/a\\u000d\\u000aX-Evil: 1'],
])('a warning is a header whatever it names: %j', (sentence, expected) => {
  const headers = new Headers()
  addWarning(headers, sentence)
  expect(headers.get('X-Miniserve-Warning')).toBe(expected)
})

it('several are there together', () => {
  const headers = new Headers()
  for (const sentence of ['one', 'two']) addWarning(headers, sentence)
  expect(headers.get('X-Miniserve-Warning')).toBe('one, two')
})
