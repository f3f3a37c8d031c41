/** Builds the final prompt of a generation request from its documents and its question, with or without a template of the model. */
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

/** The part of a generation request that determines its prompt and the prompt's length. */
export interface Generation {
  readonly prompts: readonly PromptInput[]
  readonly maxTokens: number
}

export interface PromptEngine extends Pick<Engine, 'encode' | 'decode' | 'maxModelLen'> {
  /** The prompt.json of the model; null: none, so the documents precede the question in a generic prompt. */
  readonly promptTemplate: PromptTemplate | null
}

/** The share of the context that is reserved for the answer, even if the request allows a longer one. */
const MIN_ANSWER_SHARE = 0.25

/**
 * Builds the prompt in the template of the engine's model, if it has one.
 * @param closest finds the sentences that a template repeats
 * @returns the prompt, and the documents that fit into it, best first
 * @throws RagError naming the field whose value cannot be used
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
  // The template itself contains the first token of the sequence.
  const ids = (await engine.encode([{ text }], { addSpecialTokens: false }))?.[0]
  return { prompt: ids ? { ids } : { text }, used }
}

/** The turns before the question, and all instructions. */
function earlierTurns(conversation: readonly ChatMessage[] | null): readonly ChatMessage[] {
  const question = conversation?.findLastIndex(({ role }) => role === 'user') ?? -1
  return conversation?.filter(({ role }, i) => i < question || INSTRUCTING_ROLES.includes(role)) ?? []
}

/** Rejects turns that the model's own template has no place for, instead of dropping them silently. */
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

/** Rejects the continuation of a message: the final prompt ends with the question, so there is nothing to continue. */
export function refuseContinuation(prompts: readonly PromptInput[]): void {
  const param = 'continue_final_message'
  if (prompts.some((prompt) => 'messages' in prompt && prompt.continueFinalMessage)) {
    throw new RagError('invalid_request', `${param}: expected false when rag is set, found true`, param)
  }
}
