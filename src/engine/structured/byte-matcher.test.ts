import { expect, it } from 'vitest'
import { GrammarRules, inOrder, NOTHING, oneOf, text } from './byte-grammar.ts'
import { ByteMatcher } from './byte-matcher.ts'

/** Two kinds of brackets: every text nested in another way needs stacks of its own. */
function brackets(): ByteMatcher {
  const rules = new GrammarRules()
  const root = rules.open()
  rules.define(root, oneOf(inOrder(text('('), root, text(')')), inOrder(text('['), root, text(']')), NOTHING))
  return new ByteMatcher(rules.network(root))
}

it('the stacks of a grammar are bounded over all of its texts', () => {
  let matcher = brackets()
  const used = new Set([matcher])
  for (let number = 0; number < 40; number++) {
    let place = matcher.start()
    // Thousands of brackets, which begin differently in each text.
    const text = number.toString(2).padStart(6, '0').replaceAll('0', '(').replaceAll('1', '[') + '('.repeat(4000)
    for (const byte of Buffer.from(text)) place = matcher.step(place, byte) ?? matcher.start()
    expect(matcher.step(place, 0x29)).not.toBeNull()
    expect(matcher.step(place, 0x5d)).toBeNull()
    matcher = matcher.forNextText()
    used.add(matcher)
  }
  expect(used.size).toBeGreaterThan(1)
  expect(used.size).toBeLessThan(40)
})
