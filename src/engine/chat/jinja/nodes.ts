/** A parsed template. */
import type { Value } from './values.ts'

export interface CallArguments {
  readonly positional: readonly TemplateExpression[]
  readonly named: readonly (readonly [name: string, value: TemplateExpression])[]
  /** `*list` and `**dictionary`. */
  readonly list: TemplateExpression | null
  readonly dictionary: TemplateExpression | null
}

/** A filter or test by its name. */
export interface Application {
  readonly name: string
  readonly args: CallArguments
}

export type BinaryOperator = '+' | '-' | '*' | '/' | '//' | '%' | '**'
export type Comparison = '==' | '!=' | '<' | '<=' | '>' | '>=' | 'in' | 'not in'

export type TemplateExpression =
  | { readonly kind: 'constant'; readonly value: Value }
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'list' | 'tuple'; readonly items: readonly TemplateExpression[] }
  | { readonly kind: 'dict'; readonly entries: readonly (readonly [TemplateExpression, TemplateExpression])[] }
  | { readonly kind: 'choice'; readonly test: TemplateExpression; readonly value: TemplateExpression; readonly otherwise: TemplateExpression | null } // prettier-ignore
  | { readonly kind: 'and' | 'or'; readonly left: TemplateExpression; readonly right: TemplateExpression }
  | { readonly kind: 'not' | 'negative' | 'positive'; readonly of: TemplateExpression }
  | { readonly kind: 'binary'; readonly operator: BinaryOperator; readonly left: TemplateExpression; readonly right: TemplateExpression } // prettier-ignore
  | { readonly kind: 'concat'; readonly parts: readonly TemplateExpression[] }
  | { readonly kind: 'compare'; readonly first: TemplateExpression; readonly rest: readonly (readonly [Comparison, TemplateExpression])[] } // prettier-ignore
  | { readonly kind: 'attribute'; readonly of: TemplateExpression; readonly name: string }
  | { readonly kind: 'item'; readonly of: TemplateExpression; readonly key: TemplateExpression }
  | { readonly kind: 'slice'; readonly of: TemplateExpression; readonly bounds: readonly (TemplateExpression | null)[] }
  | { readonly kind: 'call'; readonly callee: TemplateExpression; readonly args: CallArguments }
  /** `of`: null in a filter block, where the block's text is filtered. */
  | { readonly kind: 'filter'; readonly of: TemplateExpression | null; readonly filter: Application }
  | { readonly kind: 'test'; readonly of: TemplateExpression; readonly test: Application }

/** What is assigned to. */
export type Target =
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'member'; readonly namespace: string; readonly name: string }
  | { readonly kind: 'tuple'; readonly items: readonly Target[] }

export interface Parameter {
  readonly name: string
  readonly fallback: TemplateExpression | null
}

export type Statement =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'output'; readonly value: TemplateExpression }
  | { readonly kind: 'set'; readonly target: Target; readonly value: TemplateExpression }
  | {
      readonly kind: 'setBlock'
      readonly target: Target
      readonly filter: TemplateExpression | null
      readonly body: Body
    }
  | { readonly kind: 'if'; readonly branches: readonly (readonly [test: TemplateExpression, body: Body])[]; readonly otherwise: Body } // prettier-ignore
  | ForStatement
  | MacroStatement
  | { readonly kind: 'callBlock'; readonly call: TemplateExpression; readonly macro: MacroStatement }
  | { readonly kind: 'filterBlock'; readonly filter: TemplateExpression; readonly body: Body }
  | { readonly kind: 'with'; readonly values: readonly (readonly [Target, TemplateExpression])[]; readonly body: Body }
  | { readonly kind: 'scope'; readonly body: Body }
  | { readonly kind: 'break' | 'continue' }

export type Body = readonly Statement[]

export interface ForStatement {
  readonly kind: 'for'
  readonly target: Target
  readonly of: TemplateExpression
  readonly test: TemplateExpression | null
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
