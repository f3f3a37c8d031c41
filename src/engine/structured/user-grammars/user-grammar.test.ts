import { afterAll, describe, expect, it } from 'vitest'
import { createByteTokenizer, EOS } from '../../../../test/engine/byte-tokenizer.ts'
import { isWhole } from '../../../../test/engine/grammar-draw.ts'
import { createGrammarCompiler } from '../grammar-compiler.ts'

const compiler = createGrammarCompiler({ tokenizer: createByteTokenizer(), vocabSize: 264, eosTokenIds: [EOS] })
afterAll(() => compiler.close())

async function takes(ebnf: string, text: string): Promise<boolean> {
  return isWhole(await (await compiler.compile({ kind: 'grammar', ebnf })).createMatcher(), text)
}

const arithmetic = `?start: expression
?expression: term (("+" | "-") term)*
?term: factor (("*" | "/") factor)* // a comment
?factor: NUMBER
       | "-" factor
       | "(" expression ")" -> group
%import common.NUMBER
`

describe('a grammar takes what it says and nothing else', () => {
  it.each([
    ['root ::= "a" root "b" | "c"', ['c', 'aacbb'], ['', 'acbb', 'ab']],
    ['root ::= "aaa" | "aacc" | "aac"', ['aaa', 'aac', 'aacc'], ['aaca', 'aa']],
    ['root ::= [à-é]+ "x"? # comment\n', ['é', 'àx'], ['e', 'ê']],
    ['root ::= [^é\\]]{2,3}', ['ab', '😀üx'], ['é', 'a]', 'a']],
    ['root ::= "say \\"hi\\"\\n" "\\u00e9\\x41"', ['say "hi"\néA'], ['say "hi"']],
    ['root ::= root "+" t | t\nt ::= [0-9]', ['1+2+3', '1'], ['+1', '1+']],
    ['root ::= item ("," item)*\nitem ::= "a" |\n  "b"', ['a,b', 'b'], ['a,', ',a']],
    [arithmetic, ['1+2*(3-4)', '-1.5e3'], ['1+', '(1', '1 + 2']],
    ['start: "yes"i | "no" | "a".."c"\n', ['YeS', 'no', 'b'], ['NO', 'd']],
    ['start: WORD~2..3\nWORD: /[a-z]+;/\n', ['ab;c;', 'a;b;c;'], ['a;', 'a;b;c;d;']],
    ['start: [greeting] "!"\ngreeting: "hi" | "ho"\n%ignore " "\n', ['!', 'hi!'], ['hi']],
    ['start: start "a" | "b"\n', ['b', 'baa'], ['a', 'ab']],
  ])('%s', async (ebnf, matching, others) => {
    for (const text of matching) expect(await takes(ebnf, text), text).toBe(true)
    for (const text of others) expect(await takes(ebnf, text), text).toBe(false)
  })
})

describe('a grammar that cannot be read is refused, by line', () => {
  it.each([
    ['start ::= "a"', 'expected EBNF with a rule named root'],
    ['nonsense', 'expected EBNF with a rule named root'],
    ['root ::= "a"\nb ::= nowhere', 'a name that no rule has in line 2'],
    ['root ::= "a\nb ::= "c"', 'cannot be read in line 1'],
    ['root ::= ("a"\n', 'an opening parenthesis without a closing one in line 1'],
    ['root ::= [z-a]', 'a range whose end comes before its beginning in line 1'],
    ['root ::= "a" root', 'a rule that never ends in line 1'],
    ['root ::= a | "x"\na ::= root "b" | "y"', 'a rule that begins with itself in line 1'],
    ['start: "a" b\n\nb: /(?<=x)y/\n', 'a look-behind in line 3'],
    ['start: nowhere\n', 'a name that no rule has in line 1'],
    ['rule: "a"\n', 'no rule named start'],
    ['start: "a"\n%import python.STRING\n', '"%import" of what is not among the known terminals of "common" in line 2'],
    ['start: "a"\n%declare X\n', 'a directive that is not known in line 2'],
    ['start: ("a"\n', 'a bracket without its other half in line 1'],
  ])('%s', async (ebnf, why) => {
    const refused = compiler.compile({ kind: 'grammar', ebnf })
    await expect(refused).rejects.toMatchObject({ code: 'invalid_request', param: 'structured_outputs' })
    await expect(refused).rejects.toThrow(why)
  })
})
