/** The responses of /v1/completions. */
import type { ChoiceLogprob } from '../engine/request.ts'
import { finishReason, tailOf } from './generation-result.ts'
import type { GenerationJob } from './job.ts'
import { legacyLogprobs, promptLogprobs } from './logprobs.ts'
import { type EchoedPrompt, openAiEnd, type Shape, textFrames, chunkFrames } from './output.ts'
import { dataFrame, type Frames } from './sse.ts'
import { StreamCounts } from './stream-counts.ts'

/** For requests without echo. */
const NOTHING: EchoedPrompt = { text: '', firstToken: '' }

/** Formats a generation as text completion objects and chunks. @param echoed prompts to repeat before the text */
export function completionShape(job: GenerationJob, echoed: readonly EchoedPrompt[]): Shape {
  const head = {
    id: job.requestId,
    object: 'text_completion',
    created: job.created,
    model: job.model,
    system_fingerprint: job.fingerprint,
  }
  const promptOf = (choice: number) => Math.floor(choice / job.shown.choices)
  const counts = new StreamCounts(job)
  const choice = (index: number, text: string, logprobs: unknown, finishReason: string | null, more: object = {}) => ({
    index,
    text,
    logprobs,
    finish_reason: finishReason,
    ...more,
  })
  const wantsLogprobs = job.shown.logprobs >= 0
  const names = { top: job.shown.logprobs, asIds: job.tokensAsIds }
  const textFrame = textFrames((index, text) => ({ ...head, choices: [choice(index, text, null, null)] }))
  /** The chunk with the prompt, for each of its choices. */
  function* echo(promptIndex: number, entries: readonly (ChoiceLogprob | null)[] | null) {
    const { text, firstToken } = echoed[promptIndex] ?? NOTHING
    const logprobs = entries && legacyLogprobs(entries, names, 0, firstToken)
    for (let i = 0; i < job.shown.choices; i++) {
      const index = promptIndex * job.shown.choices + i
      counts.moveOffset(index, text)
      const chunk = { ...head, choices: [choice(index, text, logprobs, null)], ...counts.usage(index) }
      const frames = chunkFrames(entries?.length ?? 0, chunk)
      if (typeof frames === 'string') yield frames
      else yield* frames
    }
  }
  function* echoes() {
    for (const promptIndex of job.generation.prompts.keys()) yield* echo(promptIndex, null)
  }
  return {
    body: (result, citations) => ({
      ...head,
      choices: result.shown.map((c, index) => {
        const promptIndex = promptOf(index)
        const ofPrompt = result.promptLogprobs[promptIndex] ?? []
        const entries = [...(job.echo ? ofPrompt : []), ...c.logprobs]
        const { text, firstToken } = echoed[promptIndex] ?? NOTHING
        return choice(
          index,
          text + c.text,
          wantsLogprobs ? legacyLogprobs(entries, names, 0, firstToken) : null,
          finishReason(c),
          {
            stop_reason: c.finished?.stopReason ?? null,
            ...(job.promptLogprobs < 0 ? {} : { prompt_logprobs: promptLogprobs(ofPrompt, job.promptLogprobs) }),
            ...(job.returnTokenIds ? { token_ids: c.tokenIds, prompt_token_ids: result.promptIds[promptIndex] } : {}),
          },
        )
      }),
      ...tailOf(result, citations),
    }),
    opening: () => (job.echo && !wantsLogprobs ? echoes() : ''),
    prompt: (event) => {
      counts.addPrompt(event)
      return ''
    },
    echo: (event): Frames => (job.echo ? echo(event.promptIndex, event.entries) : ''),
    token: (event) => {
      if (counts.isPlain) return event.text === '' ? '' : textFrame(event)
      counts.addToken(event)
      if (counts.isEmpty(event)) return ''
      const offset = counts.moveOffset(event.choice, event.text)
      const logprobs = wantsLogprobs && event.logprobs ? legacyLogprobs(event.logprobs, names, offset) : null
      const ids = job.returnTokenIds ? { token_ids: event.tokenIds, ...counts.promptIds(event.choice) } : {}
      return chunkFrames(event.logprobs?.length ?? 0, {
        ...head,
        choices: [choice(event.choice, event.text, logprobs, null, ids)],
        ...counts.usage(event.choice),
      })
    },
    finished: (event, tail) =>
      dataFrame({
        ...head,
        choices: [
          choice(event.choice, '', null, event.reason, {
            stop_reason: event.stopReason,
            ...counts.promptIds(event.choice),
          }),
        ],
        ...counts.usage(event.choice),
        ...tail,
      }),
    closing: (result, citations) =>
      job.includeUsage ? dataFrame({ ...head, choices: [], ...tailOf(result, citations) }) : '',
    ...openAiEnd,
  }
}
