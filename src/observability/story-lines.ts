/** The first and the last line of a request's story: their names and levels. */
import type { EndingName } from './endings.ts'
import type { RouteKind } from './request-info.ts'

/** Name of the last line, by how the request ended. */
export const END_LINES: Readonly<Record<EndingName, string>> = {
  success: 'response.sent',
  validation: 'request.refused',
  unauthorized: 'request.refused',
  refused: 'request.refused',
  unavailable: 'request.refused',
  client_disconnect: 'request.aborted',
  closed_early: 'request.aborted',
  deadline: 'request.failed',
  engine_error: 'request.failed',
  device_lost: 'request.failed',
  exception: 'request.failed',
  shutdown: 'request.failed',
  leak: 'request.failed',
}

/** Probes, pages and metrics would drown the story of the requests. */
export const storyLevel = (kind: RouteKind): 'info' | 'debug' => (kind === 'other' ? 'debug' : 'info')

/** Level of the last line. */
export function endLevel(ending: EndingName, kind: RouteKind): 'debug' | 'info' | 'warn' | 'error' {
  if (END_LINES[ending] === 'request.failed') return 'error'
  // A probe asks while the model loads to be told so.
  return ending === 'unavailable' && kind !== 'other' ? 'warn' : storyLevel(kind)
}
