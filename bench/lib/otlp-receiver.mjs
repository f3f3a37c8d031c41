// A real OTLP gRPC receiver in a process of its own: prints its URL, then, on every line it reads, how many spans have come.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const { MockOtlpServer } = createRequire(import.meta.url)('@elastic/mockotlpserver')
let spans = 0
const server = new MockOtlpServer({
  services: ['grpc'],
  grpcHostname: '127.0.0.1',
  grpcPort: 0,
  logLevel: 'fatal',
  onTrace(trace) {
    for (const { scopeSpans } of trace.resourceSpans) for (const scope of scopeSpans) spans += scope.spans.length
  },
})
await server.start()
process.stdout.write(`${String(server.grpcUrl)}\n`)
for await (const _ of createInterface({ input: process.stdin })) process.stdout.write(`${spans}\n`)
await server.close()
