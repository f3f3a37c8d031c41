/** From generation events to the response bodies and streams of the routes: what each of their wires has to say. */
import type { ChoiceFinishedEvent, PromptEvent, PromptLogprobsEvent, TokenEvent } from '../engine/request.ts'
import type { GenerationResult, Tail } from './generation-result.ts'
import type { Citations } from '../rag/service.ts'
import type { GenerationJob } from './job.ts'
import { type ApiError, toErrorBody } from './errors.ts'
import { dataFrame, dataFramePieces, DONE_FRAME, type Frames } from './sse.ts'

/**
 * How the wire of one route says what was generated: as one body, or as the frames of a stream. A frame is server-sent text, whole events;
 * '' where the wire has nothing to say.
 */
export interface Shape {
  body(result: GenerationResult, citations: Citations | null): unknown
  /** Before the first event. */
  opening(): Frames
  /** A prompt was accepted. */
  prompt(event: PromptEvent): string
  /** A prompt given back with its log-probabilities. */
  echo(event: PromptLogprobsEvent): Frames
  token(event: TokenEvent): Frames
  /** The end of a choice. `tail` is set for the last one, unless the stream has a separate chunk for it. */
  finished(event: ChoiceFinishedEvent, tail: Tail | null): string
  /** After all choices. */
  closing(result: GenerationResult, citations: Citations | null): Frames
  error(error: ApiError): Frames
  /** The mark behind everything, also behind an error. */
  readonly done: string
}

/** What a validated body comes to: what to run, and how to say what came of it. */
export interface GenerationCall {
  readonly job: GenerationJob
  /** `echoed`: a prompt each, where the request wants them back. */
  readonly shape: (echoed: readonly EchoedPrompt[]) => Shape
}

/** How streams of OpenAI's older wires end. */
export const openAiEnd = {
  error: (error: ApiError) => dataFrame(toErrorBody(error)),
  done: DONE_FRAME,
} as const

/** A prompt that `echo` gives back. */
export interface EchoedPrompt {
  readonly text: string
  /** Its first token, which nothing comes before and which has no log-probability. */
  readonly firstToken: string
}

/** Log-probabilities of this many tokens are written in one go. */
const NUM_ENTRIES = 64

/** A chunk with this many tokens' log-probabilities: those of a prompt, or of what a client that lags has not taken yet, are thousands. */
export const chunkFrames = (numEntries: number, chunk: object): Frames =>
  numEntries > NUM_ENTRIES ? dataFramePieces(chunk) : dataFrame(chunk)

/** No text a model writes is serialised to this. */
const TEXT_MARK = '\u0000text\u0000'

/** Frames of chunks that differ only in their text: the JSON around it is serialised once per choice. */
export function textFrames(chunkOf: (choice: number, text: string) => unknown): (event: TokenEvent) => string {
  const around: (readonly [before: string, after: string] | undefined)[] = []
  return ({ choice, text }) => {
    const [before, after] = (around[choice] ??= cutAt(JSON.stringify(TEXT_MARK), dataFrame(chunkOf(choice, TEXT_MARK))))
    return before + JSON.stringify(text) + after
  }
}

function cutAt(mark: string, frame: string): readonly [before: string, after: string] {
  const at = frame.indexOf(mark)
  return [frame.slice(0, at), frame.slice(at + mark.length)]
}
