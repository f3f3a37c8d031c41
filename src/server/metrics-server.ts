/** GET /metrics on a separate port, for scrapers that cannot send a key, such as a gateway's endpoint picker. */
import { createServer, type Server } from 'node:http'

/** Concurrent connections. A scraper needs one. */
const MAX_CONNECTIONS = 32
const REQUEST_TIMEOUT_MS = 10_000

type Render = (accept: string | undefined) => Promise<{ readonly contentType: string; readonly body: string }>

/** Creates the server; the caller lets it listen. Everything but /metrics is 404. @param render must not show single keys */
export function createMetricsServer(render: Render): Server {
  const server = createServer(({ method, url, headers }, response) => {
    const isHead = method === 'HEAD'
    if ((url ?? '').split('?')[0] !== '/metrics') response.writeHead(404).end()
    else if (method !== 'GET' && !isHead) response.writeHead(405, { allow: 'GET, HEAD' }).end()
    else {
      render(headers.accept).then(
        ({ contentType, body }) => {
          response.writeHead(200, { 'content-type': contentType, 'content-length': Buffer.byteLength(body) })
          response.end(isHead ? undefined : body)
        },
        () => response.writeHead(500).end(),
      )
    }
  })
  server.maxConnections = MAX_CONNECTIONS
  server.requestTimeout = REQUEST_TIMEOUT_MS
  server.headersTimeout = REQUEST_TIMEOUT_MS
  return server
}
