/** The prompt that a generation request ends up with: its documents and its question, in the template of the model or without one. */
import type { ChatMessage, Engine, PromptInput } from '../engine/request.ts'
import type { SentencePicker } from './closest-sentences.ts'
import { RagError } from './errors.ts'
import {
  buildMessages,
  buildPlainPrompt,
  buildTemplatePrompt,
  INSTRUCTING_ROLES,
  type PromptInputs,
  type PromptTemplate,
} from './prompt.ts'
import type { RetrievedDocument } from './retrieve.ts'

/** The part of a generation request that decides what its prompt is and how long it may be. */
export interface Generation {
  readonly prompts: readonly PromptInput[]
  readonly maxTokens: number
}

export interface PromptEngine extends Pick<Engine, 'encode' | 'decode' | 'maxModelLen'> {
  /** prompt.json of its model; null: it has none, and documents go before the question in plain words. */
  readonly promptTemplate: PromptTemplate | null
}

/** Share of the context that a generation keeps for its answer when it asks for as much as there is. */
const MIN_ANSWER_SHARE = 0.25

/**
 * The prompt in the template of the engine's model.
 * @param closest finds the sentences that a template repeats before the question
 * @returns the prompt, and the documents that fit into it, best first.
 * @throws RagError naming the field that cannot be honoured, or when the question alone does not fit.
 */
export async function buildFinalPrompt(
  query: string,
  { prompts, maxTokens }: Generation,
  engine: PromptEngine,
  documents: readonly RetrievedDocument[],
  closest?: SentencePicker,
): Promise<{ readonly prompt: PromptInput; readonly used: readonly RetrievedDocument[] }> {
  const { maxModelLen, promptTemplate: template } = engine
  const answerTokens = Math.min(maxTokens, Math.ceil(maxModelLen * MIN_ANSWER_SHARE))
  const inputs: PromptInputs = {
    documents,
    tokenizer: engine,
    maxTokens: maxModelLen - answerTokens,
    ...(closest && template?.sentences && { closest }),
  }
  const first = prompts[0]
  const conversation = first && 'messages' in first ? first.messages : null
  if (!template) {
    if (!conversation) {
      const { prompt: text, used } = await buildPlainPrompt(query, inputs)
      return { prompt: { text }, used }
    }
    const { prompt: messages, used } = await buildMessages(conversation, inputs)
    return { prompt: { messages }, used }
  }
  if (conversation) refuseUnplaced(conversation)
  const { prompt: text, used } = await buildTemplatePrompt(template, query, inputs, earlierTurns(conversation))
  // The template begins with the sequence's first token itself.
  const ids = (await engine.encode([{ text }], { addSpecialTokens: false }))?.[0]
  return { prompt: ids ? { ids } : { text }, used }
}

/** What was said before the question, and instructions wherever they stand. */
function earlierTurns(conversation: readonly ChatMessage[] | null): readonly ChatMessage[] {
  const question = conversation?.findLastIndex(({ role }) => role === 'user') ?? -1
  return conversation?.filter(({ role }, i) => i < question || INSTRUCTING_ROLES.includes(role)) ?? []
}

/** Turns that a prompt after the model's own template has no place for: none is left out without a word. */
function refuseUnplaced(conversation: readonly ChatMessage[]): void {
  const question = conversation.findLastIndex(({ role }) => role === 'user')
  const at = conversation.findIndex(
    ({ role }, i) => role === 'tool' || (i > question && !INSTRUCTING_ROLES.includes(role)),
  )
  const role = conversation[at]?.role
  if (role === undefined) return
  const expected = role === 'tool' ? 'no messages of role tool' : 'the question, of role user, as the last turn'
  throw new RagError(
    'invalid_request',
    `messages: expected ${expected} when rag is set, found role ${role} in message ${at}`,
    'messages',
  )
}

/** The final prompt ends with the question: there is nothing to go on with. */
export function refuseContinuation(prompts: readonly PromptInput[]): void {
  const param = 'continue_final_message'
  if (prompts.some((prompt) => 'messages' in prompt && prompt.continueFinalMessage)) {
    throw new RagError('invalid_request', `${param}: expected false when rag is set, found true`, param)
  }
}
