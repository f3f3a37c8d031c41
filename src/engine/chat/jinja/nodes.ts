/** A parsed template. */
import type { Value } from './values.ts'

export interface CallArguments {
  readonly positional: readonly Expression[]
  readonly named: readonly (readonly [name: string, value: Expression])[]
  /** `*list` and `**dictionary`. */
  readonly list: Expression | null
  readonly dictionary: Expression | null
}

/** A filter or test by its name. */
export interface Application {
  readonly name: string
  readonly args: CallArguments
}

export type BinaryOperator = '+' | '-' | '*' | '/' | '//' | '%' | '**'
export type Comparison = '==' | '!=' | '<' | '<=' | '>' | '>=' | 'in' | 'not in'

export type Expression =
  | { readonly kind: 'constant'; readonly value: Value }
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'list' | 'tuple'; readonly items: readonly Expression[] }
  | { readonly kind: 'dict'; readonly entries: readonly (readonly [Expression, Expression])[] }
  | { readonly kind: 'choice'; readonly test: Expression; readonly value: Expression; readonly otherwise: Expression | null } // prettier-ignore
  | { readonly kind: 'and' | 'or'; readonly left: Expression; readonly right: Expression }
  | { readonly kind: 'not' | 'negative' | 'positive'; readonly of: Expression }
  | { readonly kind: 'binary'; readonly operator: BinaryOperator; readonly left: Expression; readonly right: Expression } // prettier-ignore
  | { readonly kind: 'concat'; readonly parts: readonly Expression[] }
  | { readonly kind: 'compare'; readonly first: Expression; readonly rest: readonly (readonly [Comparison, Expression])[] } // prettier-ignore
  | { readonly kind: 'attribute'; readonly of: Expression; readonly name: string }
  | { readonly kind: 'item'; readonly of: Expression; readonly key: Expression }
  | { readonly kind: 'slice'; readonly of: Expression; readonly bounds: readonly (Expression | null)[] }
  | { readonly kind: 'call'; readonly callee: Expression; readonly args: CallArguments }
  /** `of`: null in a filter block, where the block's text is filtered. */
  | { readonly kind: 'filter'; readonly of: Expression | null; readonly filter: Application }
  | { readonly kind: 'test'; readonly of: Expression; readonly test: Application }

/** What is assigned to. */
export type Target =
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'member'; readonly namespace: string; readonly name: string }
  | { readonly kind: 'tuple'; readonly items: readonly Target[] }

export interface Parameter {
  readonly name: string
  readonly fallback: Expression | null
}

export type Statement =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'output'; readonly value: Expression }
  | { readonly kind: 'set'; readonly target: Target; readonly value: Expression }
  | { readonly kind: 'setBlock'; readonly target: Target; readonly filter: Expression | null; readonly body: Body }
  | { readonly kind: 'if'; readonly branches: readonly (readonly [test: Expression, body: Body])[]; readonly otherwise: Body } // prettier-ignore
  | ForStatement
  | MacroStatement
  | { readonly kind: 'callBlock'; readonly call: Expression; readonly macro: MacroStatement }
  | { readonly kind: 'filterBlock'; readonly filter: Expression; readonly body: Body }
  | { readonly kind: 'with'; readonly values: readonly (readonly [Target, Expression])[]; readonly body: Body }
  | { readonly kind: 'scope'; readonly body: Body }
  | { readonly kind: 'break' | 'continue' }

export type Body = readonly Statement[]

export interface ForStatement {
  readonly kind: 'for'
  readonly target: Target
  readonly of: Expression
  readonly test: Expression | null
  readonly isRecursive: boolean
  readonly body: Body
  readonly otherwise: Body
}

export interface MacroStatement {
  readonly kind: 'macro'
  readonly name: string
  readonly parameters: readonly Parameter[]
  readonly body: Body
}
