/** A caller's own grammar, in EBNF or in Lark's notation. */
import type { Expression, GrammarRules } from '../byte-grammar.ts'
import { parseEbnf } from './ebnf.ts'
import { GrammarSyntax } from './grammar-syntax.ts'
import { isLark, parseLark } from './lark.ts'
import { Unenforceable } from '../unenforceable.ts'

interface UserGrammar {
  readonly root: Expression
  readonly warnings: readonly string[]
}

/** @throws Unenforceable naming the line */
export function userGrammar(source: string, grammar: GrammarRules): UserGrammar {
  if (isLark(source)) {
    const { rules, warnings } = parseLark(source)
    return { root: new GrammarSyntax(rules).root('start', grammar), warnings }
  }
  if (!/^\s*root\s*::=/m.test(source))
    throw new Unenforceable(
      'expected EBNF with a rule named root, as in `root ::= "yes" | "no"`, or Lark with a rule named start',
    )
  return { root: new GrammarSyntax(parseEbnf(source)).root('root', grammar), warnings: [] }
}
