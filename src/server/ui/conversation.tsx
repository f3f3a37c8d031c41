/** The requests of one conversation: questions and answers, if content was captured. */
import type { StoredTrace } from '../../observability/stored-trace.ts'
import { formatMs } from './trace-view.ts'

const MAX_CHARACTERS = 4000

/** `traces`: from the beginning of the conversation. */
export function Conversation({ traces }: { readonly traces: readonly StoredTrace[] }) {
  const sum = (of: (trace: StoredTrace) => number | null) =>
    traces.reduce((total, trace) => total + (of(trace) ?? 0), 0)
  return (
    <section class="conversation" aria-label="Turns">
      <dl class="facts">
        <div>
          <dt>Requests</dt>
          <dd>{traces.length}</dd>
        </div>
        <div>
          <dt>Tokens</dt>
          <dd>
            {sum(({ tokensIn }) => tokensIn)} → {sum(({ tokensOut }) => tokensOut)}
          </dd>
        </div>
        <div>
          <dt>Time spent answering</dt>
          <dd>{formatMs(sum(({ durationMs }) => durationMs))}</dd>
        </div>
      </dl>
      {traces.map((trace) => {
        const asked = lastTextOf(trace, 'gen_ai.input.messages')
        const answered = lastTextOf(trace, 'gen_ai.output.messages')
        if (asked === null && answered === null) return null
        return (
          <article class={trace.isError ? 'is-error' : ''}>
            {asked === null ? null : <p class="asked">{asked}</p>}
            {answered === null ? null : <p class="answered">{answered}</p>}
            <a href={`/traces/${trace.traceId}`}>
              {trace.tokensOut ?? 0} tokens in {formatMs(trace.durationMs)}
            </a>
          </article>
        )
      })}
    </section>
  )
}

/** The text of the last message in an attribute of captured content; null where there is none. */
function lastTextOf({ spans, rootSpanId }: StoredTrace, attribute: string): string | null {
  const json = spans.find((span) => span.spanContext().spanId === rootSpanId)?.attributes[attribute]
  if (typeof json !== 'string') return null
  const text = (messagesOf(json).at(-1)?.parts ?? [])
    .flatMap(({ type, content }) => (type === 'text' ? (content ?? []) : []))
    .join('\n')
  if (text.trim() === '') return null
  return text.length > MAX_CHARACTERS ? `${text.slice(0, MAX_CHARACTERS)}…` : text.trim()
}

interface CapturedMessage {
  readonly parts: readonly { readonly type: string; readonly content?: string }[]
}

/** The captured messages; none if OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT has cut the JSON. */
function messagesOf(json: string): readonly CapturedMessage[] {
  try {
    return JSON.parse(json) as readonly CapturedMessage[]
  } catch {
    return []
  }
}
