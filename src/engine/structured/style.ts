/** Where values of a schema stand, and how they are written there. */
import type { ParameterKind } from '../tool-calls/parameter-kind.ts'
import type { Notation } from './notation.ts'

/** A value in the making. */
export interface Place {
  readonly path: string
  readonly depth: number
  readonly style: Style
}

/** Where a value stands: how it is written there, and strings without quotes if `raw` says what they may be. */
export interface Style {
  readonly notation: Notation
  readonly raw: { readonly kind: ParameterKind; readonly end: string } | null
}
