/** What a route's format has to provide: the body or the stream for a generation. */
import type { ChoiceFinishedEvent, PromptEvent, PromptLogprobsEvent, TokenEvent } from '../engine/request.ts'
import type { GenerationResult, Tail } from './generation-result.ts'
import type { Citations } from '../rag/service.ts'
import type { GenerationJob } from './job.ts'
import { type ApiError, toErrorBody } from './errors.ts'
import { dataFrame, dataFramePieces, DONE_FRAME, type Frames } from './sse.ts'

/**
 * The format of one route: a body, or the frames of a stream. A frame is the text of whole server-sent events; '' if the format has nothing
 * to send.
 */
export interface Shape {
  body(result: GenerationResult, citations: Citations | null): unknown
  /** Before the first event. */
  opening(): Frames
  /** A prompt was accepted. */
  prompt(event: PromptEvent): string
  /** An echoed prompt with its log-probabilities. */
  echo(event: PromptLogprobsEvent): Frames
  token(event: TokenEvent): Frames
  /** The end of a choice. `tail` is set for the last one, unless it has its own chunk. */
  finished(event: ChoiceFinishedEvent, tail: Tail | null): string
  /** After all choices. */
  closing(result: GenerationResult, citations: Citations | null): Frames
  error(error: ApiError): Frames
  /** The end mark of the stream, also after an error. */
  readonly done: string
}

/** What a validated body asks for: the job, and the format of its result. */
export interface GenerationCall {
  readonly job: GenerationJob
  /** `echoed`: the prompts, if the request asks for echo. */
  readonly shape: (echoed: readonly EchoedPrompt[]) => Shape
}

/** How streams of completions and chat end. */
export const openAiEnd = {
  error: (error: ApiError) => dataFrame(toErrorBody(error)),
  done: DONE_FRAME,
} as const

/** A prompt that is part of the response. */
export interface EchoedPrompt {
  readonly text: string
  /** Its first token, which has no log-probability. */
  readonly firstToken: string
}

/** Log-probabilities of up to this many tokens are written at a time. */
const NUM_ENTRIES = 64

/** A chunk with log-probabilities of `numEntries` tokens: for a prompt or a slow client these may be thousands. */
export const chunkFrames = (numEntries: number, chunk: object): Frames =>
  numEntries > NUM_ENTRIES ? dataFramePieces(chunk) : dataFrame(chunk)

/** Never equals the JSON of a model's text. */
const TEXT_MARK = '\u0000text\u0000'

/** Frames that differ only in their text. The JSON around it is serialised once per choice. */
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
