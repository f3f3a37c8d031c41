/** Observability: traces, logs, plugins. */
import { z } from 'zod'
import { field } from './field.ts'
import { endpoint, integer, choiceOf, seconds, share, nonEmptyText, truthy } from './values.ts'

export const observabilitySettings = {
  otlpTracesEndpoint: field(endpoint.nullable().default(null), {
    flag: 'otlp-traces-endpoint',
    env: 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT',
    value: 'URL',
    isUnquoted: true,
    help: 'OTLP endpoint for spans, over OTEL_EXPORTER_OTLP_PROTOCOL (grpc, http/protobuf, http/json); OTEL_EXPORTER_OTLP_ENDPOINT is used when this is not set',
    defaultText: 'none: nothing is dialled',
  }),
  traceDetail: field(choiceOf(['off', 'contract', 'steps', 'kernels']).default('contract'), {
    flag: 'trace-detail',
    value: 'off|contract|steps|kernels',
    help: 'detail of traces; MINISERVE_TRACES_ENABLED=false or OTEL_SDK_DISABLED=true turns them off too; kernels slows generation down',
  }),
  traceBaseline: field(share.default(1), {
    flag: 'trace-baseline',
    value: 'SHARE',
    help: 'below 1: export this share of the traces, plus every trace of an error, abort, empty output or slow request',
    defaultText: '1: all',
  }),
  traceKeepTtftMs: field(seconds(3600).nullable().default(null), {
    flag: 'trace-keep-ttft',
    value: 'SECONDS',
    help: 'with --trace-baseline: a request whose first token takes longer is slow',
    defaultText: 'none',
  }),
  traceLeakMs: field(seconds(86_400).default(900_000), {
    flag: 'trace-leak-timeout',
    value: 'SECONDS',
    help: 'close the trace of a request without activity for this long, and count it as a leak; 0: never',
    defaultText: '900',
  }),
  traceStoreSize: field(integer(0, 1_000_000).default(1000), {
    flag: 'trace-store-size',
    value: 'N',
    help: 'number of complete traces kept in memory for /traces',
  }),
  trustRemoteTraces: field(truthy.default(true), {
    env: 'MINISERVE_TRACES_TRUST_REMOTE',
    help: "false: start a new trace that links to the span of the caller, instead of joining the caller's trace",
  }),
  captureContent: field(truthy.default(false), {
    env: 'MINISERVE_CAPTURE_CONTENT',
    help: 'true: record prompts and completions on spans, visible to everyone who can read traces',
  }),
  openInference: field(truthy.default(false), {
    env: 'MINISERVE_OPENINFERENCE',
    help: 'true: add OpenInference attributes (Arize Phoenix) to spans; with captured content also messages and documents',
  }),
  exportNames: field(choiceOf(['contract', 'operation']).default('contract'), {
    env: 'MINISERVE_EXPORT_NAMES',
    help: 'operation: export http.handler under its operation and model (chat gemma-3), which other tools show in their lists; pages and files of miniserve keep the name',
  }),
  exportSteps: field(truthy.default(true), {
    env: 'MINISERVE_EXPORT_STEPS',
    help: 'false: do not export the traces of engine steps (--trace-detail steps), so that they do not fill the trace lists of other tools',
  }),
  plugins: field(z.array(nonEmptyText).default([]), {
    flag: 'plugin',
    value: 'FILE',
    help: 'module whose default export is an engine subscriber; repeatable (docs/extending-traces.md)',
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
    help: 'log file (JSON lines, rotated at 50 MB, 3 files); an empty value writes none',
  }),
}
