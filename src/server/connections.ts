/**
 * Which connections of an HTTP server serve a request. Node's closeIdleConnections() leaves those that never had one: browsers and clients
 * with pools open connections ahead of need, and one of them would hold a graceful stop until its deadline.
 */
import type { Server } from 'node:http'
import type { Socket } from 'node:net'

export interface Connections {
  /** Closes the connections that serve nothing, at once, and every other as soon as its last answer is out. */
  closeIdle(): void
}

/** Follows the connections of a server that does not listen yet. */
export function trackConnections(server: Server): Connections {
  /** Requests without a finished answer, by connection: more than one when a client pipelines. */
  const open = new Map<Socket, number>()
  let isClosing = false
  server.on('connection', (socket) => {
    open.set(socket, 0)
    socket.once('close', () => open.delete(socket))
  })
  server.on('request', ({ socket }, response) => {
    open.set(socket, (open.get(socket) ?? 0) + 1)
    response.once('close', () => {
      const left = (open.get(socket) ?? 1) - 1
      if (open.has(socket)) open.set(socket, left)
      if (isClosing && left === 0) socket.destroySoon()
    })
  })
  return {
    closeIdle() {
      isClosing = true
      for (const [socket, requests] of open) if (requests === 0) socket.destroySoon()
    },
  }
}
