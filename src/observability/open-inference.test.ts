/** OpenInference's attributes stand beside the contract's, and change nothing of it. */
import { afterEach, expect, it } from 'vitest'
import { open, play, storedTree, testObservability, type TestObservability } from '../../test/observability/scenario.ts'
import { stage } from './context.ts'
import { spansToOtlp } from './otlp.ts'
import { validateTraces } from './validate.ts'

let observability: TestObservability
afterEach(() => observability.shutdown(100))

const spansOf = (traceId: string) => storedTree(observability, traceId).spans
const attributesOf = (traceId: string, name: string) => spansOf(traceId).find((span) => span.name === name)?.attributes

/** A chat with retrieval, with content. */
async function chat(options: Parameters<typeof testObservability>[0]): Promise<string> {
  observability = testObservability(options)
  const { trace } = await play(observability, 'formatting', { rag: true })
  trace.setConversation('tea-42')
  trace.setContent({
    systemInstructions: [{ type: 'text', content: 'Be brief.' }],
    input: [
      { role: 'user', parts: [{ type: 'text', content: 'Hello' }] },
      { role: 'assistant', parts: [{ type: 'tool_call', id: 'c1', name: 'look', arguments: { at: 'tea' } }] },
      { role: 'user', parts: [{ type: 'text', content: 'And tea?' }] },
    ],
  })
  trace.setContent({ output: [{ role: 'assistant', parts: [{ type: 'text', content: 'Green.' }] }] })
  await trace.run(() =>
    stage('rag.retrieve', { 'rag.index.name': 'docs' }, async (span) =>
      span.set({
        'gen_ai.retrieval.query.text': 'tea',
        'gen_ai.retrieval.documents': JSON.stringify([{ id: 'd1', score: 1, content: 'Tea is a leaf.' }]),
      }),
    ),
  )
  trace.finish({ ending: 'success', status: 200 })
  return trace.traceId
}

it('names kinds, model, tokens, messages and documents', async () => {
  const traceId = await chat({ openInference: true, captureContent: true })
  expect(attributesOf(traceId, 'http.handler')).toMatchObject({
    'openinference.span.kind': 'LLM',
    'llm.model_name': 'tiny',
    'llm.provider': 'miniserve',
    'llm.token_count.prompt': 12,
    'llm.token_count.completion': 4,
    'llm.token_count.total': 16,
    'llm.token_count.prompt_details.cache_read': 4,
    'llm.finish_reason': 'length',
    'session.id': 'tea-42',
    'gen_ai.conversation.id': 'tea-42',
    'input.value': 'And tea?',
    'input.mime_type': 'text/plain',
    'output.value': 'Green.',
    'llm.input_messages.0.message.role': 'system',
    'llm.input_messages.0.message.content': 'Be brief.',
    'llm.input_messages.2.message.tool_calls.0.tool_call.function.name': 'look',
    'llm.input_messages.2.message.tool_calls.0.tool_call.function.arguments': '{"at":"tea"}',
    'llm.input_messages.3.message.content': 'And tea?',
    'llm.output_messages.0.message.content': 'Green.',
  })
  const parameters = String(attributesOf(traceId, 'http.handler')?.['llm.invocation_parameters'])
  expect(JSON.parse(parameters)).toEqual({ max_tokens: 16, temperature: 1, n: 1, stream: false })
  const retrieval = spansOf(traceId)
    .filter(({ name }) => name === 'rag.retrieve')
    .at(-1)
  expect(retrieval?.attributes).toMatchObject({
    'openinference.span.kind': 'RETRIEVER',
    'input.value': 'tea',
    'retrieval.documents.0.document.id': 'd1',
    'retrieval.documents.0.document.content': 'Tea is a leaf.',
  })
  // A whole score is a double all the same.
  expect(JSON.stringify(spansToOtlp(retrieval ? [retrieval] : []))).toContain(
    '{"key":"retrieval.documents.0.document.score","value":{"doubleValue":1}}',
  )
  const kinds = Object.fromEntries(
    spansOf(traceId).map(({ name, attributes }) => [name, attributes['openinference.span.kind']]),
  )
  expect(kinds).toMatchObject({
    'tokenize.input': 'CHAIN',
    'embed.query': 'EMBEDDING',
    'vector.search': 'CHAIN',
    rerank: 'RERANKER',
    'llm.prefill': 'CHAIN',
    'llm.decode': 'CHAIN',
    'format.output': 'CHAIN',
  })
  expect(attributesOf(traceId, 'rerank')).toMatchObject({ 'reranker.model_name': 'cross', 'reranker.top_k': 3 })
})

it('has no content where none is captured', async () => {
  const traceId = await chat({ openInference: true })
  const text = JSON.stringify(spansOf(traceId).map(({ attributes }) => attributes))
  for (const content of ['tea?', 'Green', 'Be brief', 'leaf']) expect(text).not.toContain(content)
  expect(attributesOf(traceId, 'http.handler')).toMatchObject({ 'llm.token_count.total': 16 })
})

it('is off unless asked for, and the contract holds with it and without', async () => {
  for (const openInference of [false, true]) {
    observability = testObservability({ openInference, captureContent: true })
    const { trace } = await play(observability, 'formatting', { rag: true })
    trace.setContent({ input: [{ role: 'user', parts: [{ type: 'text', content: 'Hello' }] }] })
    trace.finish({ ending: 'success', status: 200 })
    const spans = spansOf(trace.traceId)
    expect(validateTraces(spansToOtlp(spans), 'contract')).toEqual([])
    expect(spans.every(({ attributes }) => 'openinference.span.kind' in attributes)).toBe(openInference)
    expect('input.value' in (attributesOf(trace.traceId, 'http.handler') ?? {})).toBe(openInference)
  }
})

it('shows query and documents on the root of a retrieval route', () => {
  observability = testObservability({ openInference: true, captureContent: true })
  const trace = open(observability, { kind: 'retrieval', route: '/v1/rag/query' })
  trace.setGeneration({ operation: 'retrieval', model: 'mini' })
  trace.set({
    'gen_ai.retrieval.query.text': 'tea',
    'gen_ai.retrieval.documents': JSON.stringify([{ id: 'd1', score: 0.5, content: 'Tea is a leaf.' }]),
  })
  trace.finish({ ending: 'success', status: 200 })
  expect(attributesOf(trace.traceId, 'http.handler')).toMatchObject({
    'openinference.span.kind': 'RETRIEVER',
    'input.value': 'tea',
    'retrieval.documents.0.document.id': 'd1',
  })
})

it.each([
  ['embeddings', 'EMBEDDING'],
  ['retrieval', 'RETRIEVER'],
] as const)('calls the root of %s what it is', (operation, kind) => {
  observability = testObservability({ openInference: true })
  const trace = open(observability, { kind: 'retrieval', route: '/v1/embeddings' })
  trace.setGeneration({ operation, model: 'mini' })
  trace.finish({ ending: 'success', status: 200 })
  expect(attributesOf(trace.traceId, 'http.handler')).toMatchObject({ 'openinference.span.kind': kind })
})
