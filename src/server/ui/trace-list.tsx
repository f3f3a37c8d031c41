/** /traces: the stored traces, newest first, with a filter form. A conversation is shown from its beginning. */
import type { StoredTrace } from '../../observability/stored-trace.ts'
import { Conversation } from './conversation.tsx'
import { latencies, LatencyChart } from './latency-chart.tsx'
import { Layout, type Visitor } from './layout.tsx'
import { formatMs } from './trace-view.ts'

/** The form's fields as they were sent. */
type TraceFilter = Readonly<Record<string, string>>

/** The options of the form. */
interface TraceChoices {
  readonly routes: readonly string[]
  readonly models: readonly string[]
  readonly keys: readonly string[]
}

/** The options for the viewer's traces. */
export function choicesOf(traces: readonly StoredTrace[]): TraceChoices {
  const distinct = (values: readonly (string | null)[]) => [...new Set(values)].filter((value) => value !== null).sort()
  return {
    routes: distinct(traces.map(({ route }) => route)),
    models: distinct(traces.map(({ model }) => model)),
    keys: distinct(traces.map(({ keyId }) => keyId)),
  }
}

const STATUSES = ['ok', 'error', '4xx', '5xx'] as const

interface TraceListProps {
  readonly traces: readonly StoredTrace[]
  readonly filter: TraceFilter
  readonly choices: TraceChoices
  readonly visitor: Visitor
}

/** The list of traces with its filter form. */
export function TraceListPage({ traces, filter, choices, visitor }: TraceListProps) {
  const { conversation } = filter
  const isConversation = conversation !== undefined && conversation !== ''
  return (
    <Layout current="traces" title="Traces · miniserve" visitor={visitor}>
      <h1>{isConversation ? <span>Conversation {conversation}</span> : 'Traces'}</h1>
      {isConversation ? (
        <nav class="crumbs" aria-label="Breadcrumb">
          <a href="/traces">All traces</a>
        </nav>
      ) : (
        <Filter filter={filter} choices={choices} />
      )}
      <div id="results">
        {traces.length === 0 ? (
          <Nothing isFiltered={Object.values(filter).some((value) => value !== '')} />
        ) : (
          <div>
            {isConversation ? <Conversation traces={traces} /> : null}
            {traces.length > 1 ? <LatencyChart latencies={latencies(traces)} filter={filter} /> : null}
            <Table traces={traces} hasKeys={choices.keys.length > 1} />
          </div>
        )}
      </div>
    </Layout>
  )
}

function Nothing({ isFiltered }: { readonly isFiltered: boolean }) {
  return (
    <p class="empty">
      {isFiltered
        ? 'No trace matches the filter.'
        : 'No traces yet. Every request to /v1/completions or /v1/chat/completions adds one.'}
    </p>
  )
}

function Filter({ filter, choices }: { readonly filter: TraceFilter; readonly choices: TraceChoices }) {
  const number = { type: 'number', min: '0', step: '1', inputmode: 'numeric' } as const
  return (
    <form class="filter" method="get" action="/traces">
      <label class="wide">
        Id of a request, trace or conversation
        <input
          name="id"
          type="search"
          value={filter['id'] ?? ''}
          placeholder="whole or its beginning"
          spellcheck={false}
        />
      </label>
      <Select name="status" label="Status" options={STATUSES} filter={filter} />
      <Select name="route" label="Route" options={choices.routes} filter={filter} />
      {choices.models.length > 0 ? (
        <Select name="model" label="Model" options={choices.models} filter={filter} />
      ) : null}
      {choices.keys.length > 1 ? <Select name="key" label="Key" options={choices.keys} filter={filter} /> : null}
      <label>
        Minimum duration, ms
        <input name="min_ms" {...number} step="any" value={filter['min_ms'] ?? ''} />
      </label>
      <label>
        Minimum tokens in
        <input name="min_tokens_in" {...number} value={filter['min_tokens_in'] ?? ''} />
      </label>
      <label>
        Minimum tokens out
        <input name="min_tokens_out" {...number} value={filter['min_tokens_out'] ?? ''} />
      </label>
      <label>
        Exact tokens out
        <input name="tokens_out" {...number} value={filter['tokens_out'] ?? ''} />
      </label>
      <button type="submit">Filter</button>
    </form>
  )
}

interface SelectProps {
  readonly name: string
  readonly label: string
  readonly options: readonly string[]
  readonly filter: TraceFilter
}

function Select({ name, label, options, filter }: SelectProps) {
  return (
    <label>
      {label}
      <select name={name}>
        <option value="">any</option>
        {options.map((option) => (
          <option value={option} selected={option === filter[name]}>
            {option}
          </option>
        ))}
      </select>
    </label>
  )
}

function Table({ traces, hasKeys }: { readonly traces: readonly StoredTrace[]; readonly hasKeys: boolean }) {
  const slowest = Math.max(...traces.map((trace) => trace.durationMs), 0.001)
  return (
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
          <TraceRow trace={trace} slowest={slowest} hasKeys={hasKeys} />
        ))}
      </tbody>
    </table>
  )
}

interface TraceRowProps {
  readonly trace: StoredTrace
  readonly slowest: number
  readonly hasKeys: boolean
}

function TraceRow({ trace, slowest, hasKeys }: TraceRowProps) {
  const started = new Date(trace.startMs).toISOString()
  const { conversationId } = trace
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
        <small>
          {trace.callerId ? <span>{trace.callerId}</span> : null}
          {trace.model ? <span>{trace.model}</span> : null}
          {hasKeys && trace.keyId ? <span>key {trace.keyId}</span> : null}
          {conversationId ? <a href={conversationPath(conversationId)}>conversation</a> : null}
        </small>
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

/** The page of a conversation's requests. */
export const conversationPath = (id: string): string => `/traces?conversation=${encodeURIComponent(id)}`

export const statusClass = (trace: StoredTrace): string =>
  trace.isError ? 'bad' : (trace.status ?? 0) >= 400 ? 'refused' : 'good'
