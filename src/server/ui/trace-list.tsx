/** /traces: the stored traces, newest first, with a filter that is a plain form. */
import type { StoredTrace } from '../../observability/trace-store.ts'
import { Layout, type Visitor } from './layout.tsx'
import { formatMs } from './trace-view.ts'

export interface TraceFilter {
  readonly status?: string
  readonly route?: string
  readonly min_ms?: string
  readonly tokens_out?: string
}

const STATUSES = ['', 'ok', 'error', '4xx', '5xx'] as const

interface TraceListProps {
  readonly traces: readonly StoredTrace[]
  readonly filter: TraceFilter
  readonly routes: readonly string[]
  readonly visitor: Visitor
}

export function TraceListPage({ traces, filter, routes, visitor }: TraceListProps) {
  const slowest = Math.max(...traces.map((trace) => trace.durationMs), 0.001)
  return (
    <Layout current="traces" title="Traces · miniserve" visitor={visitor}>
      <h1>Traces</h1>
      <form class="filter" method="get" action="/traces">
        <label>
          Status
          <select name="status">
            {STATUSES.map((status) => (
              <option value={status} selected={status === (filter.status ?? '')}>
                {status || 'any'}
              </option>
            ))}
          </select>
        </label>
        <label>
          Route
          <select name="route">
            <option value="">any</option>
            {routes.map((route) => (
              <option value={route} selected={route === filter.route}>
                {route}
              </option>
            ))}
          </select>
        </label>
        <label>
          At least, ms
          <input name="min_ms" type="number" min="0" step="any" inputmode="decimal" value={filter.min_ms ?? ''} />
        </label>
        <label>
          Tokens out
          <input name="tokens_out" type="number" min="0" step="1" inputmode="numeric" value={filter.tokens_out ?? ''} />
        </label>
        <button type="submit">Filter</button>
      </form>
      {traces.length === 0 ? (
        <p class="empty">No traces here yet. Each request to /v1/completions or /v1/chat/completions leaves one.</p>
      ) : (
        <table class="traces">
          <thead>
            <tr>
              <th scope="col">Started</th>
              <th scope="col">Request</th>
              <th scope="col">Status</th>
              <th scope="col" class="number">
                Tokens
              </th>
              <th scope="col" class="number">
                First token
              </th>
              <th scope="col">Duration</th>
            </tr>
          </thead>
          <tbody>
            {traces.map((trace) => (
              <TraceRow trace={trace} slowest={slowest} />
            ))}
          </tbody>
        </table>
      )}
    </Layout>
  )
}

function TraceRow({ trace, slowest }: { readonly trace: StoredTrace; readonly slowest: number }) {
  const started = new Date(trace.startMs).toISOString()
  return (
    <tr class={trace.isError ? 'is-error' : ''}>
      <td data-label="Started">
        <time datetime={started}>
          {started.slice(11, 23)} <small>{started.slice(0, 10)}</small>
        </time>
      </td>
      <td data-label="Request" class="request">
        <a href={`/traces/${trace.traceId}`}>{trace.route}</a>
        <code>{trace.requestId ?? trace.traceId}</code>
      </td>
      <td data-label="Status">
        <span>
          <span class={`status ${statusClass(trace)}`}>{trace.status ?? 'none'}</span>
          {trace.ending === 'success' ? null : <span class="ending">{trace.ending}</span>}
        </span>
      </td>
      <td data-label="Tokens" class="number">
        {trace.tokensIn === null ? '–' : `${trace.tokensIn} → ${trace.tokensOut ?? 0}`}
      </td>
      <td data-label="First token" class="number">
        {trace.ttftSeconds === null ? '–' : formatMs(trace.ttftSeconds * 1000)}
      </td>
      <td data-label="Duration" class="duration">
        <svg class="meter" aria-hidden="true" preserveAspectRatio="none">
          <rect class="track" width="100%" height="100%" rx="2" />
          <rect
            class="fill"
            width={`${Math.max(0.5, (trace.durationMs / slowest) * 100).toFixed(2)}%`}
            height="100%"
            rx="2"
          />
        </svg>
        <span>{formatMs(trace.durationMs)}</span>
      </td>
    </tr>
  )
}

export const statusClass = (trace: StoredTrace): string =>
  trace.isError ? 'bad' : (trace.status ?? 0) >= 400 ? 'refused' : 'good'
