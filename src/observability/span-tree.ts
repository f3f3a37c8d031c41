/** The ended spans of one request, in memory until its root ends: then the tree is stored, and exported or not, as a whole. */
import { type Context, createContextKey } from '@opentelemetry/api'
import type { ReadableSpan } from '@opentelemetry/sdk-trace-base'

const TREE_KEY = createContextKey('miniserve.tree')

export const withTree = (context: Context, tree: SpanTree): Context => context.setValue(TREE_KEY, tree)
export const treeOf = (context: Context): SpanTree | undefined => context.getValue(TREE_KEY) as SpanTree | undefined

/** Spans a tree keeps; the steps level of a long generation stays far below. */
const MAX_SPANS = 1024

export class SpanTree {
  readonly spans: ReadableSpan[] = []
  /** Whether the tree is exported; null while the root is open. */
  isExported: boolean | null = null
  /** Called with a span that ends after its root (those that may). */
  onLate: ((span: ReadableSpan) => void) | null = null

  /** False when the tree is full. */
  add(span: ReadableSpan): boolean {
    if (this.spans.length >= MAX_SPANS) return false
    this.spans.push(span)
    return true
  }
}
