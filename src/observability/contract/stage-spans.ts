/** The span contract: the stages of a request around the engine. */
import {
  childSpan,
  content,
  convention,
  double,
  errorType,
  int,
  rootChild,
  type SpanSpec,
  string,
} from './span-spec.ts'

/** A part of retrieval: below rag.retrieve in a generation, below the root on the routes that only retrieve. */
const retrievalPart = {
  ...childSpan,
  parent: 'rag.retrieve',
  orParents: ['http.handler'],
  when: 'below rag.retrieve; below the root on retrieval routes',
} as const

export const STAGE_SPANS = {
  'tokenize.input': {
    ...rootChild,
    when: 'the body is valid',
    logEvent: 'input.tokenized',
    attributes: {
      'llm.tokens.in': int('optional', "tokens of the caller's own prompt; absent if a remote engine tokenizes"),
      'tokenizer.name': string('completed', '`remote` when a remote engine tokenizes'),
      'error.type': errorType,
    },
  },
  'rag.retrieve': {
    ...rootChild,
    when: 'the request asked for retrieval',
    logEvent: 'rag.retrieved',
    attributes: {
      'rag.docs.retrieved': int('completed', 'candidates from vector.search'),
      'rag.docs.reranked': int(
        'completed',
        'documents kept after rerank, those in the prompt; 0 when the reranker failed or took too long',
      ),
      'rag.index.name': string(
        'completed',
        "the index, once it was found; a name that does not exist is the caller's text and is not recorded",
        { alias: ['gen_ai.data_source.id'] },
      ),
      'gen_ai.operation.name': string('optional', 'retrieval', convention),
      'gen_ai.provider.name': string('optional', 'miniserve', convention),
      'gen_ai.retrieval.top_k': int('optional', 'candidates requested', convention),
      'gen_ai.retrieval.query.text': content('the query'),
      'gen_ai.retrieval.documents': content('the documents: id, score, content'),
      'error.type': errorType,
    },
  },
  'embed.query': {
    ...retrievalPart,
    single: false,
    attributes: {
      'rag.embed.model': string('always', 'embedding model', { alias: ['gen_ai.request.model'] }),
      'rag.embed.dimensions': int('completed', 'length of the vector', {
        alias: ['gen_ai.embeddings.dimension.count'],
      }),
      'gen_ai.operation.name': string('optional', 'embeddings', convention),
      'gen_ai.provider.name': string('optional', 'miniserve', convention),
      'error.type': errorType,
    },
  },
  'vector.search': {
    ...retrievalPart,
    attributes: {
      'rag.search.top_k': int('always', 'candidates requested'),
      'rag.search.candidates': int('completed', 'candidates found'),
      'rag.search.max_score': double('optional', 'best score; absent when nothing was found'),
      'error.type': errorType,
    },
  },
  rerank: {
    ...retrievalPart,
    attributes: {
      'rag.rerank.model': string('always', 'reranking model; none if passages keep the order of the search'),
      'rag.rerank.candidates': int('always', 'documents scored'),
      'rag.rerank.top_n': int('always', 'documents requested'),
      'error.type': errorType,
    },
  },
  'format.output': {
    ...rootChild,
    when: 'building the body; streamed: the first frame to the last one handed to the socket',
    attributes: {
      'llm.tokens.out': int('completed', 'the same number as on the root'),
      'output.format': string('completed', 'how it was written', { oneOf: ['text', 'json', 'sse'] }),
      'gen_ai.output.type': string('optional', 'text or json', convention),
      'error.type': errorType,
    },
  },
} as const satisfies Readonly<Record<string, SpanSpec>>
