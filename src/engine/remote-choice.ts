/** One choice of a remote engine's answer while it arrives. */
import type { FinishReason } from './events.ts'
import { EngineError } from './request.ts'
import type { ToolCallDelta } from './request.ts'
import type { MutableCounters } from './sequence.ts'

export interface RemoteChoiceState {
  readonly choice: number
  readonly counters: MutableCounters
  reason: FinishReason | null
  stopReason: string | number | null
  lastChunkMs: number
  numToolCalls: number
  isFinished: boolean
}

export function newRemoteChoice(choice: number, counters: MutableCounters): RemoteChoiceState {
  return { choice, counters, reason: null, stopReason: null, lastChunkMs: 0, numToolCalls: 0, isFinished: false }
}

/**
 * A piece of a call as engines give it: calls come one after the other, and only the first piece of each has id and name. Some servers
 * repeat a call's name, or send an empty one, with each of its pieces. Throws EngineError upstream_error for a call that does not follow
 * the last one, or has no name.
 */
export function nextToolCall(state: RemoteChoiceState, delta: ToolCallDelta): ToolCallDelta {
  const { index, id, name } = delta
  if (index < state.numToolCalls) return { ...delta, id: null, name: null }
  if (index > state.numToolCalls || name === null)
    throw new EngineError('upstream_error', `the remote engine sent a piece of call ${index} before its beginning`)
  state.numToolCalls++
  return { ...delta, id: id ?? `call_${index}` }
}
