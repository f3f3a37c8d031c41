import { trace as otel } from '@opentelemetry/api'

/** acme.generation below llm.decode, and one acme.preemption below that for each time the sequence lost its blocks. */
export default function nestedSpans({ tracer, registry, find }) {
  const open = (requestId, name, parents, atMs) => {
    const parent = registry.getContext(requestId, ...parents)
    const trace = find(requestId)
    if (!tracer || !parent || !trace) return
    const span = tracer.startSpan(name, { startTime: trace.time(atMs) }, parent)
    // Registered: others can nest under it, and it ends with the request whatever happens.
    registry.open(requestId, name, span, otel.setSpan(parent, span))
  }
  const close = (requestId, name, atMs) => {
    const trace = find(requestId)
    if (trace) registry.pop(requestId, name)?.span.end(trace.time(atMs))
  }
  return {
    name: 'nested-spans',
    onEvent(event) {
      const { type, requestId, atMs } = event
      if (type === 'firstToken') open(requestId, 'acme.generation', ['llm.decode'], atMs)
      if (type === 'preempted') open(requestId, 'acme.preemption', ['acme.generation', 'llm.prefill'], atMs)
      if (type === 'scheduled') close(requestId, 'acme.preemption', atMs)
      if (type === 'finished') {
        close(requestId, 'acme.preemption', atMs)
        // The last token ends llm.decode; `finished` comes a little later. Each choice ends its own span.
        close(requestId, 'acme.generation', event.counters.lastTokenMs ?? atMs)
      }
    },
  }
}
