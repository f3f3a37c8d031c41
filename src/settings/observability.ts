/** Observability: traces, logs, plugins. */
import { z } from 'zod'
import { field } from './field.ts'
import { endpoint, integer, choiceOf, seconds, share, nonEmptyText, truthy } from './values.ts'

export const observabilitySettings = {
  otlpTracesEndpoint: field(endpoint.nullable().default(null), {
    flag: 'otlp-traces-endpoint',
    env: 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT',
    value: 'URL',
    help: 'OTLP endpoint for spans, over OTEL_EXPORTER_OTLP_PROTOCOL (grpc, http/protobuf, http/json); OTEL_EXPORTER_OTLP_ENDPOINT is used when this is not set',
    defaultText: 'none: nothing is dialled',
  }),
  traceDetail: field(choiceOf(['off', 'contract', 'steps', 'kernels']).default('contract'), {
    flag: 'trace-detail',
    value: 'off|contract|steps|kernels',
    help: 'off also by MINISERVE_TRACES_ENABLED=false or OTEL_SDK_DISABLED=true; kernels is slower',
  }),
  traceBaseline: field(share.default(1), {
    flag: 'trace-baseline',
    value: 'SHARE',
    help: 'below 1: export this share of the traces, and besides them every error, abort, empty output and slow one',
    defaultText: '1: all',
  }),
  traceKeepTtftMs: field(seconds(3600).nullable().default(null), {
    flag: 'trace-keep-ttft',
    value: 'SECONDS',
    help: 'with --trace-baseline: a first token later than this is slow',
    defaultText: 'none',
  }),
  traceLeakMs: field(seconds(86_400).default(900_000), {
    flag: 'trace-leak-timeout',
    value: 'SECONDS',
    help: 'a request without a sign of life for this long has its trace closed as a leak, and counted; 0: never',
    defaultText: '900',
  }),
  traceStoreSize: field(integer(0, 1_000_000).default(1000), {
    flag: 'trace-store-size',
    value: 'N',
    help: 'complete traces kept in memory for /traces',
  }),
  trustRemoteTraces: field(truthy.default(true), {
    env: 'MINISERVE_TRACES_TRUST_REMOTE',
    help: "false: start a trace of our own, linked to the caller's span, instead of joining it",
  }),
  captureContent: field(truthy.default(false), {
    env: 'MINISERVE_CAPTURE_CONTENT',
    help: 'true: put prompts and completions on spans, where anyone who may read traces reads them',
  }),
  openInference: field(truthy.default(false), {
    env: 'MINISERVE_OPENINFERENCE',
    help: "true: OpenInference's attributes (Arize Phoenix) beside the contract's; with captured content also messages and documents",
  }),
  exportNames: field(choiceOf(['contract', 'operation']).default('contract'), {
    env: 'MINISERVE_EXPORT_NAMES',
    help: 'operation: http.handler leaves as its operation and model (chat gemma-3), which lists of traces elsewhere show; pages and files keep its name',
  }),
  exportSteps: field(truthy.default(true), {
    env: 'MINISERVE_EXPORT_STEPS',
    help: 'false: the traces of engine steps (--trace-detail steps) stay in memory, where lists of requests elsewhere would be full of them',
  }),
  plugins: field(z.array(nonEmptyText).default([]), {
    flag: 'plugin',
    value: 'FILE',
    help: 'a module whose default export is an engine subscriber; repeatable (docs/extending-traces.md)',
    defaultText: 'none',
  }),
  logLevel: field(choiceOf(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'), {
    flag: 'log-level',
    env: 'LOG_LEVEL',
    value: 'LEVEL',
    help: 'trace, debug, info, warn, error, fatal or silent',
  }),
  logFile: field(z.string().default('logs/miniserve.log'), {
    flag: 'log-file',
    value: 'FILE',
    help: 'JSON lines also go here, rotated at 50 MB, 3 files; an empty value writes none',
  }),
}
