/**
 * A GPU device that goes away, for the end-to-end tests: loaded into the unchanged server by NODE_OPTIONS=--import, in its main thread
 * and in the runner's. Any request with the header x-fault: device destroys the device.
 */
import { subscribe } from 'node:diagnostics_channel'
import { BroadcastChannel, isMainThread } from 'node:worker_threads'

const channel = new BroadcastChannel('test.device')
channel.unref()

if (isMainThread) {
  subscribe('http.server.request.start', ({ request }) => {
    if (request.headers['x-fault'] === 'device') channel.postMessage('destroy', [])
  })
} else {
  const { globals } = await import('webgpu')
  const { requestDevice } = globals.GPUAdapter.prototype
  let device = null
  globals.GPUAdapter.prototype.requestDevice = async function (...args) {
    device = await requestDevice.apply(this, args)
    return device
  }
  channel.addEventListener('message', () => device?.destroy())
}
