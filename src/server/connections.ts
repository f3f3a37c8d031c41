/**
 * Which connections of an HTTP server serve a request, and which requests end with their connection. Node's closeIdleConnections() leaves those that never had one: browsers and clients
 * with pools open connections ahead of need, and one of them would delay a graceful stop until its deadline.
 */
import type { Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

export interface Connections {
  /** Closes the connections that serve nothing, at once, and every other as soon as its last answer is out. */
  closeIdle(): void
}

/** Follows the connections of a server that does not listen yet. */
export function trackConnections(server: Server): Connections {
  /** Answers that are not finished, by connection: more than one when a client pipelines. */
  const open = new Map<Socket, Set<ServerResponse>>()
  let isClosing = false
  server.on('connection', (socket) => {
    open.set(socket, new Set())
    socket.once('close', () => {
      const responses = open.get(socket) ?? []
      open.delete(socket)
      // Node notifies only the first pending response, which has the socket. Work on the others would go on for no one.
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
