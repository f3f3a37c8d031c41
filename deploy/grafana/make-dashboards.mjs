#!/usr/bin/env node
// Writes dashboards/*.json from the tables below: node deploy/grafana/make-dashboards.mjs
import { writeFileSync } from 'node:fs'

const PROMETHEUS = { type: 'prometheus', uid: 'prometheus' }
const TEMPO = { type: 'tempo', uid: 'tempo' }

const quantile = (q, histogram, by = '') =>
  `histogram_quantile(${q}, sum by (le${by ? `, ${by}` : ''}) (rate(miniserve_${histogram}_bucket[$__rate_interval])))`
const rate = (counter, by = '') => `sum${by ? ` by (${by})` : ''} (rate(miniserve_${counter}[$__rate_interval]))`
const percentiles = (histogram) => [0.5, 0.95, 0.99].map((q) => [quantile(q, histogram), `p${q * 100}`])

/** A graph of Prometheus queries: [expression, legend] pairs. */
const graph = (title, unit, queries, options = {}) => ({
  title,
  unit,
  queries,
  type: 'timeseries',
  width: 8,
  ...options,
})
const stat = (title, unit, expression, options = {}) => ({
  title,
  unit,
  queries: [[expression, '']],
  type: 'stat',
  width: 4,
  height: 4,
  ...options,
})
const heatmap = (title, histogram) => ({
  title,
  unit: 's',
  type: 'heatmap',
  width: 12,
  queries: [[`sum by (le) (rate(miniserve_${histogram}_bucket[$__rate_interval]))`, '{{le}}']],
})
/** A table of traces that fit a TraceQL query. */
const traces = (title, query, options = {}) => ({ title, traceql: query, type: 'table', width: 12, ...options })
/** A graph of a TraceQL metrics query. */
const traceGraph = (title, unit, query, options = {}) => ({
  title,
  unit,
  traceMetrics: query,
  type: 'timeseries',
  width: 12,
  ...options,
})

const DASHBOARDS = {
  overview: {
    title: 'miniserve: overview',
    panels: [
      stat('Requests per second', 'reqps', rate('request_success_total')),
      stat('Running', 'short', 'sum(miniserve_num_requests_running)'),
      stat('Waiting', 'short', 'sum(miniserve_num_requests_waiting)'),
      stat('KV cache in use', 'percentunit', 'max(miniserve_kv_cache_usage_perc)'),
      stat('Output tokens per second', 'short', rate('generation_tokens_total')),
      stat('First token, p95', 's', quantile(0.95, 'time_to_first_token_seconds')),
      graph(
        'Requests by how they ended',
        'reqps',
        [[rate('request_success_total', 'finished_reason'), '{{finished_reason}}']],
        { exemplar: true },
      ),
      graph('Time to first token', 's', percentiles('time_to_first_token_seconds'), { exemplar: true }),
      graph('Inter-token latency', 's', percentiles('inter_token_latency_seconds')),
      graph('End to end', 's', percentiles('e2e_request_latency_seconds'), { exemplar: true }),
      graph('Queue', 'short', [
        ['sum(miniserve_num_requests_running)', 'running'],
        ['sum(miniserve_num_requests_waiting)', 'waiting'],
      ]),
      graph('Tokens per second', 'short', [
        [rate('prompt_tokens_total'), 'prompt'],
        [rate('generation_tokens_total'), 'output'],
      ]),
      traces(
        'Recent errors',
        '{ name="http.handler" && status=error } | select(span.llm.request.id, span.error.type)',
        { width: 24 },
      ),
    ],
  },
  latency: {
    title: 'miniserve: latency by stage',
    panels: [
      graph('Queue', 's', percentiles('request_queue_time_seconds'), { exemplar: true }),
      graph('Prefill', 's', percentiles('request_prefill_time_seconds'), { exemplar: true }),
      graph('Decode', 's', percentiles('request_decode_time_seconds'), { exemplar: true }),
      heatmap('Time to first token', 'time_to_first_token_seconds'),
      heatmap('End to end', 'e2e_request_latency_seconds'),
      traceGraph(
        'Stages, p95 of the spans',
        's',
        '{ resource.service.name="miniserve" } | quantile_over_time(duration, 0.95) by (name)',
      ),
      traces('Slow decode steps', '{ name="llm.decode" && span.llm.decode.mean_step_ms>20.0 }'),
    ],
  },
  cache: {
    title: 'miniserve: prefix cache',
    panels: [
      stat('Hit rate', 'percentunit', `${rate('prefix_cache_hits_total')} / ${rate('prefix_cache_queries_total')}`, {
        width: 6,
      }),
      stat('Blocks in use', 'percentunit', 'max(miniserve_kv_cache_usage_perc)', { width: 6 }),
      stat('Preemptions per minute', 'short', '60 * sum(rate(miniserve_num_preemptions_total[$__rate_interval]))', {
        width: 6,
      }),
      graph(
        'Tokens looked up and found',
        'short',
        [
          [rate('prefix_cache_queries_total'), 'looked up'],
          [rate('prefix_cache_hits_total'), 'found'],
        ],
        { width: 12 },
      ),
      graph('KV cache in use', 'percentunit', [['miniserve_kv_cache_usage_perc', '{{instance}}']], { width: 12 }),
      traceGraph(
        'Misses by reason',
        'short',
        '{ name="llm.prefill" && span.llm.cache.misses>0 } | rate() by (span.llm.cache.miss_reason)',
      ),
      traces('Long prompts that missed', '{ name="llm.prefill" && span.llm.cache.hits=0 && span.llm.tokens.in>512 }'),
    ],
  },
  retrieval: {
    title: 'miniserve: retrieval',
    panels: [
      traceGraph('Retrieval, p50 and p95', 's', '{ name="rag.retrieve" } | quantile_over_time(duration, 0.5, 0.95)'),
      traceGraph(
        'Its stages, p95',
        's',
        '{ name=~"embed.query|vector.search|rerank" } | quantile_over_time(duration, 0.95) by (name)',
      ),
      traceGraph('Requests per second by index', 'reqps', '{ name="rag.retrieve" } | rate() by (span.rag.index.name)'),
      traces('Nothing was found', '{ name="http.handler" } >> { name="rag.retrieve" && span.rag.docs.retrieved=0 }'),
    ],
  },
  tokens: {
    title: 'miniserve: tokens and cost by key',
    variables: [
      { name: 'input_price', label: 'Price of a million prompt tokens', value: '0.10' },
      { name: 'output_price', label: 'Price of a million output tokens', value: '0.40' },
    ],
    panels: [
      graph(
        'Prompt tokens per second by key',
        'short',
        [[rate('key_tokens_total{direction="in"}', 'key_id'), '{{key_id}}']],
        { width: 12 },
      ),
      graph(
        'Output tokens per second by key',
        'short',
        [[rate('key_tokens_total{direction="out"}', 'key_id'), '{{key_id}}']],
        { width: 12 },
      ),
      {
        title: 'Cost over the range by key',
        unit: 'currencyUSD',
        type: 'bargauge',
        width: 24,
        queries: [
          [
            'sum by (key_id) (increase(miniserve_key_tokens_total{direction="in"}[$__range])) * $input_price / 1e6 + sum by (key_id) (increase(miniserve_key_tokens_total{direction="out"}[$__range])) * $output_price / 1e6',
            '{{key_id}}',
          ],
        ],
      },
    ],
  },
  anomalies: {
    title: 'miniserve: anomalies',
    panels: [
      traces('Empty outputs', '{ resource.service.name="miniserve" && span.llm.tokens.out=0 }'),
      traces('Server errors', '{ name="http.handler" && span.http.status_code>=500 }'),
      traces('Aborted while decoding', '{ name="llm.decode" && span.llm.stop_reason="abort" }'),
      traces(
        'Failed requests',
        '{ name="http.handler" && status=error } | select(span.llm.request.id, span.error.type)',
      ),
      graph('Aborts and errors', 'reqps', [[rate('requests_total{ending!="success"}', 'ending'), '{{ending}}']], {
        width: 12,
      }),
      graph(
        'Spans',
        'short',
        [
          [rate('spans_created_total'), 'created'],
          [rate('spans_exported_total'), 'exported'],
          [rate('spans_dropped_total'), 'dropped'],
          [rate('spans_unsampled_total'), 'unsampled'],
        ],
        { width: 12 },
      ),
    ],
  },
  engine: {
    title: 'miniserve: engine',
    panels: [
      graph('Sequences', 'short', [
        ['sum(miniserve_num_requests_running)', 'running'],
        ['sum(miniserve_num_requests_waiting)', 'waiting'],
      ]),
      graph('Preemptions per minute', 'short', [
        ['60 * sum(rate(miniserve_num_preemptions_total[$__rate_interval]))', 'preemptions'],
      ]),
      graph('Event-loop lag', 's', [['miniserve_event_loop_lag_p99_seconds', 'p99']]),
      graph('Drafts by prompt lookup', 'short', [[rate('spec_decode_tokens_total', 'outcome'), '{{outcome}}']]),
      graph('Device memory', 'bytes', [
        ['sum by (device, use) (miniserve_device_memory_bytes)', '{{device}} {{use}}'],
        ['sum(miniserve_device_memory_bytes{use="kv_cache"}) * max(miniserve_kv_cache_usage_perc)', 'kv_cache in use'],
      ]),
      graph('Process memory', 'bytes', [['process_resident_memory_bytes{job="miniserve"}', 'resident']]),
      graph('CPU', 'percentunit', [['rate(process_cpu_seconds_total{job="miniserve"}[$__rate_interval])', 'cpu']]),
      traces('Sampled engine steps', '{ name="engine.step" }', { width: 24 }),
    ],
  },
}

function panel(spec, id, gridPos) {
  const isTempo = spec.traceql !== undefined || spec.traceMetrics !== undefined
  const datasource = isTempo ? TEMPO : PROMETHEUS
  const targets = isTempo
    ? [
        {
          refId: 'A',
          datasource,
          queryType: 'traceql',
          query: spec.traceql ?? spec.traceMetrics,
          limit: 20,
          tableType: 'traces',
        },
      ]
    : spec.queries.map(([expr, legendFormat], i) => ({
        refId: String.fromCharCode(65 + i),
        datasource,
        expr,
        legendFormat,
        exemplar: spec.exemplar === true,
        ...(spec.type === 'heatmap' ? { format: 'heatmap' } : {}),
      }))
  return {
    id,
    type: spec.type,
    title: spec.title,
    datasource,
    gridPos,
    targets,
    fieldConfig: { defaults: { ...(spec.unit ? { unit: spec.unit } : {}) }, overrides: [] },
    options: {},
  }
}

for (const [name, dashboard] of Object.entries(DASHBOARDS)) {
  let x = 0
  let y = 0
  let rowHeight = 0
  const panels = dashboard.panels.map((spec, i) => {
    const height = spec.height ?? 8
    if (x + spec.width > 24) {
      x = 0
      y += rowHeight
      rowHeight = 0
    }
    const position = { x, y, w: spec.width, h: height }
    x += spec.width
    rowHeight = Math.max(rowHeight, height)
    return panel(spec, i + 1, position)
  })
  const document = {
    uid: `miniserve-${name}`,
    title: dashboard.title,
    tags: ['miniserve'],
    schemaVersion: 39,
    version: 1,
    editable: true,
    refresh: '10s',
    time: { from: 'now-30m', to: 'now' },
    links: [
      {
        type: 'dashboards',
        tags: ['miniserve'],
        title: 'miniserve',
        asDropdown: true,
        includeVars: false,
        keepTime: true,
      },
    ],
    templating: {
      list: (dashboard.variables ?? []).map(({ name: variable, label, value }) => ({
        type: 'textbox',
        name: variable,
        label,
        query: value,
        current: { text: value, value },
      })),
    },
    panels,
  }
  writeFileSync(new URL(`./dashboards/${name}.json`, import.meta.url), `${JSON.stringify(document, null, 2)}\n`)
}
