/**
 * Attributes of OpenInference (Arize's conventions, which Phoenix and others read), with MINISERVE_OPENINFERENCE. They have the same values as
 * the contract's attributes under other names. Content is included only if content is captured.
 */
import type { Attributes } from '@opentelemetry/api'
import type { CapturedContent, ContentMessage, ContentPart } from './content.ts'
import type { SpanName } from './contract.ts'
import type { RequestFacts } from './request-facts.ts'
import type { RouteKind } from './root-span.ts'

type Kind = 'LLM' | 'EMBEDDING' | 'RETRIEVER' | 'RERANKER' | 'CHAIN'

const KIND = 'openinference.span.kind'

/** The kinds of spans below the root. */
const KINDS: Readonly<Partial<Record<SpanName, Kind>>> = {
  'rag.retrieve': 'RETRIEVER',
  'embed.query': 'EMBEDDING',
  rerank: 'RERANKER',
}

/** Only the newest messages get attributes. */
const MAX_MESSAGES = 32
const MAX_CHARACTERS = 64 * 1024

const NAME =
  /^(openinference\.span\.kind|session\.id|(in|out)put\.(value|mime_type)|llm\.(model_name|provider|invocation_parameters|finish_reason|token_count\.[a-z_.]+|(in|out)put_messages\.\d+\.message\..+)|retrieval\.documents\.\d+\.document\..+|reranker\.[a-z_]+|embedding\.[a-z_]+)$/

/** Whether an attribute is one of OpenInference, which the contract's validator ignores. */
export const isOpenInference = (name: string): boolean => NAME.test(name)

/** Whether an attribute is always exported as a double. */
export const isOpenInferenceDouble = (name: string): boolean =>
  /^retrieval\.documents\.\d+\.document\.score$/.test(name)

/** The attribute of a span at its start. */
export function openInferenceKind(name: SpanName): Attributes {
  return { [KIND]: KINDS[name] ?? 'CHAIN' }
}

/** The attributes of a stage. `content`: whether content is captured. */
export function stageAttributes(
  name: SpanName,
  values: Readonly<Record<string, unknown>>,
  content: boolean,
): Attributes {
  switch (name) {
    case 'http.handler':
    case 'rag.retrieve':
      return content ? retrievalAttributes(values) : {}
    case 'embed.query':
      return given({ 'embedding.model_name': values['rag.embed.model'] })
    case 'rerank':
      return given({ 'reranker.model_name': values['rag.rerank.model'], 'reranker.top_k': values['rag.rerank.top_n'] })
    default:
      return {}
  }
}

/** The attributes of http.handler at its end. */
export function rootAttributes(
  kind: RouteKind,
  facts: RequestFacts,
  content: CapturedContent,
  conversationId: string | null,
): Attributes {
  const { generation, tokensIn, tokensOut, finishReasons, phases } = facts
  const isGeneration = kind === 'generation'
  const parameters = given({
    max_tokens: generation?.maxTokens,
    temperature: generation?.temperature,
    top_p: generation?.topP,
    top_k: generation?.topK,
    seed: generation?.seed,
    n: generation?.n,
    stream: generation?.stream,
  })
  return {
    [KIND]: rootKind(kind, generation?.operation),
    ...given({
      'llm.model_name': isGeneration ? generation?.model : undefined,
      'llm.provider': isGeneration && generation ? 'miniserve' : undefined,
      'llm.invocation_parameters': isGeneration && generation ? JSON.stringify(parameters) : undefined,
      'embedding.model_name': generation?.operation === 'embeddings' ? generation.model : undefined,
      'llm.finish_reason': finishReasons?.[0],
      'llm.token_count.prompt': tokensIn,
      'llm.token_count.completion': tokensOut,
      'llm.token_count.total': tokensIn === null ? undefined : tokensIn + (tokensOut ?? 0),
      'llm.token_count.prompt_details.cache_read': phases?.cacheHits,
      'llm.token_count.completion_details.reasoning': phases?.reasoningTokens || undefined,
      'session.id': conversationId,
    }),
    ...messageAttributes('input', withInstructions(content)),
    ...messageAttributes('output', content.output ?? []),
  }
}

function rootKind(kind: RouteKind, operation: string | undefined): Kind {
  if (kind === 'generation') return 'LLM'
  return operation === 'embeddings' ? 'EMBEDDING' : operation === 'retrieval' ? 'RETRIEVER' : 'CHAIN'
}

const withInstructions = ({ systemInstructions = [], input = [] }: CapturedContent): readonly ContentMessage[] =>
  systemInstructions.length === 0 ? input : [{ role: 'system', parts: systemInstructions }, ...input]

/** Each message, and the last one also as the span's input or output. */
function messageAttributes(side: 'input' | 'output', messages: readonly ContentMessage[]): Attributes {
  const last = messages.at(-1)
  if (last === undefined) return {}
  const attributes: Attributes = {
    [`${side}.value`]: cut(textOf(last.parts)),
    [`${side}.mime_type`]: 'text/plain',
  }
  for (const [i, { role, parts }] of messages.slice(-MAX_MESSAGES).entries()) {
    const message = `llm.${side}_messages.${i}.message`
    attributes[`${message}.role`] = role
    attributes[`${message}.content`] = cut(textOf(parts.filter(({ type }) => type !== 'tool_call')))
    for (const [j, call] of parts.filter((part) => part.type === 'tool_call').entries()) {
      attributes[`${message}.tool_calls.${j}.tool_call.function.name`] = call.name
      attributes[`${message}.tool_calls.${j}.tool_call.function.arguments`] = cut(JSON.stringify(call.arguments))
    }
  }
  return attributes
}

const textOf = (parts: readonly ContentPart[]): string =>
  parts
    .filter(({ type }) => type !== 'reasoning')
    .map((part) => {
      if ('content' in part) return part.content
      return JSON.stringify(part.type === 'tool_call' ? { name: part.name, arguments: part.arguments } : part.response)
    })
    .join('\n')

const cut = (text: string): string => (text.length > MAX_CHARACTERS ? `${text.slice(0, MAX_CHARACTERS)}…` : text)

function retrievalAttributes(values: Readonly<Record<string, unknown>>): Attributes {
  const query = values['gen_ai.retrieval.query.text']
  const json = values['gen_ai.retrieval.documents']
  const attributes: Attributes =
    typeof query === 'string' ? { 'input.value': cut(query), 'input.mime_type': 'text/plain' } : {}
  if (typeof json !== 'string') return attributes
  const documents = JSON.parse(json) as readonly {
    readonly id: string
    readonly score: number
    readonly content: string
  }[]
  for (const [i, { id, score, content }] of documents.slice(0, MAX_MESSAGES).entries()) {
    const document = `retrieval.documents.${i}.document`
    attributes[`${document}.id`] = id
    attributes[`${document}.score`] = score
    attributes[`${document}.content`] = cut(content)
  }
  return attributes
}

/** The values that are strings, numbers or booleans. */
function given(values: Readonly<Record<string, unknown>>): Attributes {
  const known: Attributes = {}
  for (const [name, value] of Object.entries(values)) {
    if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') known[name] = value
  }
  return known
}
