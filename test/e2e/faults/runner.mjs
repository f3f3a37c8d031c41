/**
 * A runner's thread that dies, for the end-to-end tests: loaded into the unchanged server by NODE_OPTIONS=--import, in all its threads.
 * A request with the header x-fault: runner ends the thread when the first part of its answer is written: in the middle of a stream, after anything else.
 */
import { subscribe } from 'node:diagnostics_channel'
import { BroadcastChannel, isMainThread } from 'node:worker_threads'

const channel = new BroadcastChannel('test.runner')
channel.unref()

if (isMainThread) {
  subscribe('http.server.request.start', ({ request, response }) => {
    if (request.headers['x-fault'] !== 'runner') return
    const originals = { write: response.write, end: response.end }
    for (const method of ['write', 'end']) {
      const original = response[method]
      response[method] = (...args) => {
        Object.assign(response, { write: originals.write, end: originals.end })
        channel.postMessage('exit', [])
        return original.apply(response, args)
      }
    }
  })
} else if (process.argv[1]?.includes('runner')) {
  channel.addEventListener('message', () => process.exit(9))
}
