/**
 * Knows which connections of an HTTP server serve a request, and ends the requests of a closed connection. Node's closeIdleConnections()
 * keeps connections that never had a request. Browsers and connection pools open such connections, and one of them would delay a
 * graceful stop until its deadline.
 */
import type { Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

export interface Connections {
  /** Closes idle connections at once, and all others when their last response has been sent. */
  closeIdle(): void
}

/** Tracks the connections of a server. Call it before the server listens. */
export function trackConnections(server: Server): Connections {
  /** Unfinished responses by connection. A pipelining client has more than one. */
  const open = new Map<Socket, Set<ServerResponse>>()
  let isClosing = false
  server.on('connection', (socket) => {
    open.set(socket, new Set())
    socket.once('close', () => {
      const responses = open.get(socket) ?? []
      open.delete(socket)
      // Node notifies only the first pending response, which has the socket. Work on the others would continue for nobody.
      for (const response of responses) {
        if (response.socket !== null) continue
        response.destroy()
        response.emit('close')
      }
    })
  })
  server.on('request', ({ socket }, response) => {
    const responses = open.get(socket)
    responses?.add(response)
    response.once('close', () => {
      responses?.delete(response)
      if (isClosing && responses?.size === 0) socket.destroySoon()
    })
  })
  return {
    closeIdle() {
      isClosing = true
      for (const [socket, responses] of open) if (responses.size === 0) socket.destroySoon()
    },
  }
}
