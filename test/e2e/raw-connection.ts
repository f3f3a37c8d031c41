/** Bytes over a socket as they are: what HTTP clients would not send, or would tidy up before they do. */
import { connect, type Socket } from 'node:net'
import { once } from 'node:events'

export interface RawAnswer {
  readonly status: number
  readonly head: string
  readonly body: string
}

export class RawConnection {
  #received = ''
  readonly #socket: Socket

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.setEncoding('utf8').on('data', (text: string) => (this.#received += text))
    // A server that refuses a body closes while it is being sent.
    socket.on('error', () => {})
  }

  static async open(url: string): Promise<RawConnection> {
    const { hostname, port } = new URL(url)
    const socket = connect(Number(port), hostname)
    await once(socket, 'connect')
    return new RawConnection(socket)
  }

  write(data: string | Uint8Array): void {
    this.#socket.write(data)
  }

  /** Waits until what came so far fits, or the other side has closed. */
  async until(fits: (received: string) => boolean): Promise<string> {
    while (!fits(this.#received) && !this.#socket.closed) {
      await Promise.race([once(this.#socket, 'data'), once(this.#socket, 'close')])
    }
    return this.#received
  }

  /** Waits for the first answer that is whole (it has a Content-Length). */
  async answer(): Promise<RawAnswer> {
    const received = await this.until((text) => {
      const end = text.indexOf('\r\n\r\n')
      const length = /^content-length: (\d+)/im.exec(text.slice(0, end))?.[1]
      return end !== -1 && length !== undefined && Buffer.byteLength(text.slice(end + 4)) >= Number(length)
    })
    const end = received.indexOf('\r\n\r\n')
    return {
      status: Number(/^HTTP\/1\.1 (\d{3})/.exec(received)?.[1]),
      head: received.slice(0, end),
      body: received.slice(end + 4),
    }
  }

  close(): void {
    this.#socket.destroy()
  }
}

/** One request on a connection of its own. */
export async function rawExchange(url: string, request: string | Uint8Array): Promise<RawAnswer> {
  const connection = await RawConnection.open(url)
  try {
    connection.write(request)
    return await connection.answer()
  } finally {
    connection.close()
  }
}
