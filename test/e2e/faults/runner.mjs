/**
 * A runner's thread that dies, for the end-to-end tests: loaded into the unchanged server by NODE_OPTIONS=--import, in all its threads.
 * Any request with the header x-fault: runner ends the thread in the middle of what it does.
 */
import { subscribe } from 'node:diagnostics_channel'
import { BroadcastChannel, isMainThread } from 'node:worker_threads'

const channel = new BroadcastChannel('test.runner')
channel.unref()

if (isMainThread) {
  subscribe('http.server.request.start', ({ request }) => {
    if (request.headers['x-fault'] === 'runner') channel.postMessage('exit', [])
  })
} else if (process.argv[1]?.includes('runner')) {
  channel.addEventListener('message', () => process.exit(9))
}
