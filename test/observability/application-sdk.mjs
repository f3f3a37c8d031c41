/**
 * An application's own OpenTelemetry SDK, loaded before this server (`node --import`): it owns provider, propagator and context manager, and
 * its HTTP instrumentation opens a SERVER span around each request, as @opentelemetry/instrumentation-http does.
 */
import { Server } from 'node:http'
import { context, propagation, ROOT_CONTEXT, SpanKind, trace } from '@opentelemetry/api'
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-grpc'
import { resourceFromAttributes } from '@opentelemetry/resources'
import { NodeTracerProvider, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-node'

const provider = new NodeTracerProvider({
  resource: resourceFromAttributes({ 'service.name': 'application' }),
  spanProcessors: [new SimpleSpanProcessor(new OTLPTraceExporter({ url: process.env.APPLICATION_ENDPOINT }))],
})
provider.register()
const tracer = trace.getTracer('application.http')

const { emit } = Server.prototype
Server.prototype.emit = function (event, ...rest) {
  const [request, response] = rest
  if (event !== 'request') return emit.call(this, event, ...rest)
  const parent = propagation.extract(ROOT_CONTEXT, request.headers)
  const span = tracer.startSpan(`${request.method} ${request.url}`, { kind: SpanKind.SERVER }, parent)
  response.once('close', () => span.end())
  return context.with(trace.setSpan(parent, span), () => emit.call(this, event, ...rest))
}
