/** One choice of a remote engine's answer while it arrives. */
import type { FinishReason } from '../engine/events.ts'
import type { ToolCallDelta } from '../engine/request.ts'
import { type RemoteToolCall, upstreamError } from './response-wire.ts'
import type { MutableCounters } from '../engine/schedule/sequence.ts'

export interface RemoteChoiceState {
  readonly choice: number
  readonly counters: MutableCounters
  reason: FinishReason | null
  stopReason: string | number | null
  lastChunkMs: number
  /** Ids of the calls so far. */
  readonly callIds: string[]
  /** The call that an index refers to: the last one the server gave it to. */
  readonly callsByIndex: Map<number, number>
  isFinished: boolean
}

/** The state of a choice before its first chunk. */
export function newRemoteChoice(choice: number, counters: MutableCounters): RemoteChoiceState {
  return {
    choice,
    counters,
    reason: null,
    stopReason: null,
    lastChunkMs: 0,
    callIds: [],
    callsByIndex: new Map(),
    isFinished: false,
  }
}

/**
 * A piece of a call in the engine's terms. Calls come one after the other, and only the first piece of each has id and name. Servers differ: some
 * repeat the name, or send an empty one, with each piece; some leave the index out, or send 0 for every call, so that another id is what begins
 * another call.
 * @throws EngineError upstream_error for a piece that belongs to no call, and for a call without a name
 */
export function nextToolCall(
  state: RemoteChoiceState,
  { index, id, name, arguments: args }: RemoteToolCall,
): ToolCallDelta {
  const known = index === null ? state.callIds.length - 1 : (state.callsByIndex.get(index) ?? -1)
  const isOther = id !== null && known >= 0 && state.callIds[known] !== id
  const call = isOther ? state.callIds.indexOf(id) : known
  if (call >= 0) return { index: call, id: null, name: null, arguments: args }
  const next = state.callIds.length
  if (name === null || (index !== null && index > next))
    throw upstreamError(`the remote engine sent a piece of call ${index ?? next} before its beginning`)
  const given = id ?? `call_${next}`
  state.callIds.push(given)
  if (index !== null) state.callsByIndex.set(index, next)
  return { index: next, id: given, name, arguments: args }
}
