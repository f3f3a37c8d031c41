// A load generator that costs little beside the server it loads, which it shares two cores with: keep-alive connections, and streams whose frames are
// counted, not parsed. Only the last ones, with the usage, are read as JSON.
import http from 'node:http'

const FRAME = Buffer.from('data: {')
const TAIL_BYTES = 8192

/** One streamed completion: when it began and ended, when each write with text in it arrived, and the usage the server tells at the end. */
export function complete(agent, url, body) {
  const startMs = performance.now()
  return new Promise((resolve) => {
    const fail = (status) =>
      resolve({ isOk: false, status, startMs, endMs: performance.now(), arrivals: [], numReads: 0 })
    const request = http.request(
      `${url}/v1/completions`,
      { method: 'POST', agent, headers: { 'content-type': 'application/json' } },
      (response) => {
        const arrivals = []
        let tail = Buffer.alloc(0)
        let numReads = 0
        response.on('data', (bytes) => {
          const atMs = performance.now()
          numReads++
          // A frame whose head is cut by a border of two reads is seen with its next one: none of the numbers depends on a single frame.
          for (let at = bytes.indexOf(FRAME); at !== -1; at = bytes.indexOf(FRAME, at + FRAME.length))
            arrivals.push(atMs)
          tail = bytes.length >= TAIL_BYTES ? bytes : Buffer.concat([tail, bytes]).subarray(-TAIL_BYTES)
        })
        response.on('end', () => {
          const endMs = performance.now()
          const usage = response.statusCode === 200 ? usageOf(tail.toString()) : null
          // The frames with the finish reason and with the usage bring no text.
          arrivals.splice(-2)
          resolve({ isOk: usage !== null, status: response.statusCode, startMs, endMs, arrivals, numReads, usage })
        })
        response.on('error', () => fail(response.statusCode))
      },
    )
    // A server may close a connection between two requests; the next one then goes out anew, on another connection.
    request.on('error', () => (request.reusedSocket ? void complete(agent, url, body).then(resolve) : fail(0)))
    request.end(JSON.stringify({ stream: true, stream_options: { include_usage: true }, ...body }))
  })
}

function usageOf(text) {
  const line = text.split('\n').findLast((candidate) => candidate.startsWith('data: {'))
  if (line === undefined || !text.includes('data: [DONE]')) return null
  return JSON.parse(line.slice('data: '.length)).usage ?? null
}

export const createAgent = () => new http.Agent({ keepAlive: true, maxSockets: Infinity })

/** `concurrency` clients, each sending its next request when the last is answered, for so many seconds. */
export async function closedLoop(send, concurrency, seconds) {
  const endMs = performance.now() + seconds * 1000
  const client = async (index) => {
    while (performance.now() < endMs) await send(index)
  }
  await Promise.all(Array.from({ length: concurrency }, (_, index) => client(index)))
}
