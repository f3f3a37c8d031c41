/**
 * Faults that only a broken process has, for the end-to-end tests: loaded into the unchanged server by NODE_OPTIONS=--import. A request
 * asks for one by its header x-fault:
 *
 * - handler: the first line of its handler throws.
 * - crash: an exception that nobody catches. reject: a promise's rejection that nobody handles.
 * - end: the third frame of its response is also its last, as when something other than its stream ends it.
 *
 * Bodies and frames that hold the word "unserializable" cannot be written.
 */
import { subscribe } from 'node:diagnostics_channel'

let failsNextHandler = false

subscribe('http.server.request.start', ({ request, response }) => {
  const fault = request.headers['x-fault']
  if (fault === 'handler') failsNextHandler = true
  if (fault === 'crash') {
    setImmediate(() => {
      throw new RangeError('fault: crash')
    })
  }
  if (fault === 'reject') void Promise.reject(new RangeError('fault: reject'))
  if (fault === 'end') endAfter(response, 3)
})

function endAfter(response, numFrames) {
  const { write } = response
  let numWritten = 0
  response.write = (...args) => {
    if (++numWritten > numFrames) return false
    const isRoomLeft = write.apply(response, args)
    if (numWritten === numFrames) response.end()
    return isRoomLeft
  }
}

globalThis.AbortController = class extends AbortController {
  constructor() {
    super()
    if (!failsNextHandler) return
    failsNextHandler = false
    throw new RangeError('fault: handler')
  }
}

const { stringify } = JSON
JSON.stringify = (...args) => {
  const text = stringify(...args)
  // Whole bodies are written piece by piece, frames at once.
  const isAnswer = text?.includes('"choices"') || text?.startsWith('"unserializable')
  if (isAnswer && text.includes('unserializable')) throw new TypeError('fault: unserializable')
  return text
}
