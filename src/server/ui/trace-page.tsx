/** /traces/{id}: the waterfall. Rows are <details>, so they fold and work by keyboard without scripts. */
import { TRACE_FORMATS } from '../../observability/trace-formats.ts'
import { Layout, type Visitor } from './layout.tsx'
import { StepChart } from './step-chart.tsx'
import { conversationPath, statusClass } from './trace-list.tsx'
import { type AttributeView, formatMs, type LogView, type SpanRow, type TraceView } from './trace-view.ts'

interface TracePageProps {
  readonly views: readonly TraceView[]
  readonly visitor: Visitor
  /** Counted from 1. */
  readonly page: number
  readonly numPages: number
}

/** The waterfall of one trace, one part per tree. */
export function TracePage({ views, visitor, page, numPages }: TracePageProps) {
  const traceId = views[0]?.trace.traceId ?? ''
  return (
    <Layout current="traces" title={`Trace ${traceId.slice(0, 8)} · miniserve`} visitor={visitor}>
      <nav class="crumbs" aria-label="Breadcrumb">
        <a href="/traces">Traces</a> / <code class="id">{traceId}</code>
      </nav>
      {numPages > 1 ? <Pages page={page} numPages={numPages} /> : null}
      {views.map((view) => (
        <Tree view={view} />
      ))}
      {numPages > 1 ? <Pages page={page} numPages={numPages} /> : null}
      <section class="downloads" aria-label="Download">
        <h2>Download</h2>
        <p>
          {TRACE_FORMATS.map((format) => (
            <a class="button" href={`/v1/traces/${traceId}?format=${format}`} download={`${traceId}.${format}.json`}>
              {format}
            </a>
          ))}
        </p>
      </section>
    </Layout>
  )
}

function Pages({ page, numPages }: { readonly page: number; readonly numPages: number }) {
  return (
    <nav class="crumbs" aria-label="Pages">
      {page > 1 ? <a href={`?page=${page - 1}`}>Earlier requests</a> : null} Page {page} of {numPages}{' '}
      {page < numPages ? <a href={`?page=${page + 1}`}>Later requests</a> : null}
    </nav>
  )
}

function Tree({ view }: { readonly view: TraceView }) {
  const { trace } = view
  return (
    <article class="tree">
      <h1>
        {trace.method} {trace.route} <span class={`status ${statusClass(trace)}`}>{trace.status ?? trace.ending}</span>
      </h1>
      <p class="sub">
        <time datetime={new Date(trace.startMs).toISOString()}>
          {new Date(trace.startMs).toISOString().replace('T', ' ')}
        </time>
        {trace.requestId ? <code>{trace.requestId}</code> : null}
        {trace.model ? <span>{trace.model}</span> : null}
        {trace.conversationId ? <a href={conversationPath(trace.conversationId)}>conversation</a> : null}
        {view.callerSpanId ? (
          <span>
            called by span <code>{view.callerSpanId}</code>
          </span>
        ) : null}
        {trace.ending === 'success' ? null : <strong class="ending">{trace.ending}</strong>}
      </p>
      <dl class="facts">
        {view.facts.map((fact) => (
          <div class={fact.isWarning ? 'is-warning' : ''}>
            <dt>{fact.label}</dt>
            <dd>{fact.value}</dd>
          </div>
        ))}
      </dl>
      <Breaches view={view} />
      <Breakdown view={view} />
      <Waterfall view={view} />
      <Logs logs={view.logs} />
      <details class="resource">
        <summary>Resource</summary>
        <Attributes list={view.resource} />
      </details>
    </article>
  )
}

function Breaches({ view }: { readonly view: TraceView }) {
  if (view.breaches.length === 0) {
    return <p class="verdict good">Validates against the span contract ({view.level}).</p>
  }
  return (
    <section class="verdict bad" aria-label="Contract breaches">
      <h2>
        {view.breaches.length} {view.breaches.length === 1 ? 'breach' : 'breaches'} of the span contract ({view.level})
      </h2>
      <ul>
        {view.breaches.map((breach) => (
          <li>
            <a href={`#span-${breach.spanId}`}>{breach.span}</a> <code>{breach.rule}</code> {breach.message}
          </li>
        ))}
      </ul>
    </section>
  )
}

/** A bar with the share of each stage, and the times below it. */
function Breakdown({ view }: { readonly view: TraceView }) {
  if (view.parts.length < 2) return null
  let share = 0
  const parts = view.parts.map((part) => ({ ...part, from: (share += part.share) - part.share }))
  return (
    <figure class="breakdown">
      <svg role="img" aria-label="Where the time went">
        {parts.map((part) => (
          <rect class={`block family-${part.stage}`} x={percent(part.from)} width={percent(part.share)} height="100%">
            <title>
              {part.stage}: {formatMs(part.ms)}
            </title>
          </rect>
        ))}
      </svg>
      <figcaption>
        {parts.map((part) => (
          <span>
            <svg class="key" aria-hidden="true">
              <rect class={`block family-${part.stage}`} width="100%" height="100%" rx="2" />
            </svg>
            {part.stage} <b>{formatMs(part.ms)}</b> {part.share < 0.01 ? '<1' : Math.round(part.share * 100)} %
          </span>
        ))}
      </figcaption>
    </figure>
  )
}

const TICKS = [0, 0.25, 0.5, 0.75, 1] as const

function Waterfall({ view }: { readonly view: TraceView }) {
  return (
    <section class="waterfall" aria-label="Spans">
      <div class="axis" aria-hidden="true">
        <span>Span</span>
        <svg>
          {TICKS.map((share) => (
            <text x={percent(share)} y="12" text-anchor={share === 0 ? 'start' : share === 1 ? 'end' : 'middle'}>
              {formatMs(view.axisMs * share)}
            </text>
          ))}
        </svg>
        <span class="number">Duration</span>
      </div>
      {view.rows.map((row) => (
        <SpanDetails row={row} axisMs={view.axisMs} />
      ))}
      <p class="hint">
        <kbd>↑</kbd> <kbd>↓</kbd> move between spans, <kbd>→</kbd> <kbd>←</kbd> open and close them
      </p>
    </section>
  )
}

const MAX_INDENT = 5

function SpanDetails({ row, axisMs }: { readonly row: SpanRow; readonly axisMs: number }) {
  const isFlagged = row.breaches.length > 0
  return (
    <details class={`span${row.isError ? ' is-error' : ''}`} id={`span-${row.spanId}`} data-span>
      <summary>
        <span class={`name depth-${Math.min(row.depth, MAX_INDENT)}`}>
          {row.name}
          {isFlagged ? (
            <b class="flag" title={`${row.breaches.length} contract breaches`}>
              !
            </b>
          ) : null}
          {row.errorType === null ? null : <span class="why">{row.errorType}</span>}
        </span>
        <Bar row={row} axisMs={axisMs} />
        <span class="number">{formatMs(row.durationMs)}</span>
      </summary>
      <div class="inside">
        {row.breaches.map((breach) => (
          <p class="breach">
            <code>{breach.rule}</code> {breach.message}
          </p>
        ))}
        {row.timeline ? <StepChart timeline={row.timeline} /> : null}
        <p class="when">
          starts at {formatMs(row.startMs)}, span <code>{row.spanId}</code>
        </p>
        <Attributes list={row.attributes} />
        {row.conventions.length === 0 ? null : (
          <details class="conventions">
            <summary>{row.conventions.length} named by OpenTelemetry's conventions</summary>
            <Attributes list={row.conventions} />
          </details>
        )}
        {row.events.length === 0 ? null : (
          <div>
            <h3>Events</h3>
            <ol class="events">
              {row.events.map((event) => (
                <li>
                  <span class="number">{formatMs(event.atMs)}</span> <b>{event.name}</b>{' '}
                  {event.attributes.map((attribute) => (
                    <code>
                      {attribute.key}={attribute.value}
                    </code>
                  ))}
                </li>
              ))}
            </ol>
          </div>
        )}
        {row.links.length === 0 ? null : (
          <p class="links">
            Linked with{' '}
            {row.links.map((link) => (
              <a href={`/traces/${link.traceId}#span-${link.spanId}`}>trace {link.traceId.slice(0, 8)}</a>
            ))}
          </p>
        )}
      </div>
    </details>
  )
}

/** A span on the time axis, with its events as ticks. The geometry is in SVG attributes because the content policy forbids inline styles. */
function Bar({ row, axisMs }: { readonly row: SpanRow; readonly axisMs: number }) {
  const x = Math.max(0, row.startMs / axisMs)
  const width = Math.max(0.002, row.durationMs / axisMs)
  return (
    <svg class="lane" role="img" aria-label={`${formatMs(row.startMs)} to ${formatMs(row.startMs + row.durationMs)}`}>
      {TICKS.slice(1, -1).map((share) => (
        <line class="grid" x1={percent(share)} x2={percent(share)} y1="0" y2="100%" />
      ))}
      <rect
        class={`block family-${row.family}`}
        x={percent(Math.min(x, 0.998))}
        y="25%"
        width={percent(Math.min(width, 1 - Math.min(x, 0.998)))}
        height="50%"
        rx="2"
      />
      {row.events.map((event) => (
        <line class="tick" x1={percent(event.atMs / axisMs)} x2={percent(event.atMs / axisMs)} y1="10%" y2="90%">
          <title>{event.name}</title>
        </line>
      ))}
    </svg>
  )
}

function Attributes({ list }: { readonly list: readonly AttributeView[] }) {
  return (
    <table class="attributes">
      <tbody>
        {list.map((attribute) => (
          <tr>
            <th scope="row">{attribute.key}</th>
            <td>{attribute.value}</td>
            <td class="type">{attribute.type}</td>
          </tr>
        ))}
      </tbody>
    </table>
  )
}

function Logs({ logs }: { readonly logs: readonly LogView[] }) {
  if (logs.length === 0) return null
  return (
    <section class="logs" aria-label="Log lines">
      <h2>Log</h2>
      <ol>
        {logs.map((line) => (
          <li class={`level-${line.level}`}>
            <span class="number">{line.atMs === null ? '' : `+${Math.round(line.atMs)} ms`}</span>
            <b>{line.event}</b>
            <span class="where">{line.spanName ?? ''}</span>
            <span class="fields">
              {line.fields.map((field) => (
                <code>
                  {field.key}={field.value}
                </code>
              ))}
            </span>
          </li>
        ))}
      </ol>
    </section>
  )
}

const percent = (share: number): string => `${(share * 100).toFixed(3)}%`
