/** Adds acme.queue below http.handler: from the moment the engine queued the request to its first step. */
export default function queueSpans({ tracer, registry, find }) {
  const queuedMs = new Map()
  return {
    name: 'queue-spans',
    onEvent(event) {
      if (event.type === 'queued' && event.choice === 0) queuedMs.set(event.requestId, event.atMs)
      if (event.type === 'finished') queuedMs.delete(event.requestId)
      if (event.type !== 'scheduled' || event.choice !== 0 || event.kind !== 'first') return
      const trace = find(event.requestId)
      const parent = registry.getContext(event.requestId, 'http.handler')
      const startMs = queuedMs.get(event.requestId)
      if (!tracer || !trace || !parent || startMs === undefined) return
      const span = tracer.startSpan('acme.queue', { startTime: trace.time(startMs) }, parent)
      span.end(trace.time(event.atMs))
    },
  }
}
