/**
 * The span contract as data: spans, parents, attributes, events, the table of endings and the levels of detail. It drives emission
 * (typed at compile time), the tests, `miniserve trace validate`, the waterfall page and docs/span-contract.md.
 *
 * Attributes marked `convention` and the aliases are OpenTelemetry's semantic conventions: HTTP of v1.44.0, GenAI of
 * open-telemetry/semantic-conventions-genai at 024a4f9 (client-inference) and 32c328e (migration).
 */
import {
  type AttributeType,
  boolean,
  type ContractLevel,
  CONTRACT_LEVELS,
  convention,
  double,
  int,
  type SpanSpec,
  string,
  strings,
} from './contract-spec.ts'
import { STEP_SPANS } from './contract-steps.ts'

/** Values that are content: set with MINISERVE_CAPTURE_CONTENT=true only, and whole. */
const content = (meaning: string) =>
  string('optional', `${meaning}; only with MINISERVE_CAPTURE_CONTENT=true`, { convention: true, isContent: true })

const exception = {
  meaning: 'the error behind an ERROR status',
  attributes: {
    'exception.type': string('always', 'class of the error'),
    'exception.message': string('optional', "the message of an error of this project's own, else its stable code"),
    'exception.stacktrace': string('optional', 'frames, without the message'),
  },
} as const

const errorType = string('optional', 'why the span ended in an error', convention)

/** Instrumentation scope of the contract's spans. */
export const SCOPE_NAME = 'lynx-cortex.miniserve'

/** The version of the conventions that resource and spans follow. */
export const SCHEMA_URL = 'https://opentelemetry.io/schemas/1.44.0'

export const ROOT_SPAN = 'http.handler'

export const MISS_REASONS = ['none', 'cold', 'evicted', 'diverged', 'disabled'] as const
export const STOP_REASONS = ['stop', 'length', 'abort', 'error'] as const
export const SAMPLING_REASONS = ['head', 'baseline', 'error', 'abort', 'empty', 'ttft', 'slowest'] as const

const gpuAttributes = {
  'llm.gpu.us': int('optional', 'device time of the steps it took part in, where the adapter has timestamps'),
  'llm.gpu.share_us': int('optional', 'its share of that time, by rows'),
}

export const SPANS = {
  'http.handler': {
    parent: null,
    orParents: [],
    kind: 'server',
    level: 'contract',
    when: 'every request of a generation or retrieval route',
    single: true,
    mayOutliveParent: false,
    logEvent: null,
    attributes: {
      'http.method': string('always', 'request method', { alias: ['http.request.method'] }),
      'http.route': string('always', 'the route pattern'),
      'http.status_code': int('always', 'the status sent (499: the client left before there was one)', {
        alias: ['http.response.status_code'],
      }),
      'llm.model': string('optional', 'served model name, once the body named a model that is served', {
        alias: ['gen_ai.request.model', 'gen_ai.response.model'],
      }),
      'llm.request.id': string('always', 'id of the request and of its response (cmpl-…, chatcmpl-…)'),
      'llm.request.param': string('optional', 'the field of the body that a refused request was refused for'),
      'llm.ttft_ms': double('optional', "milliseconds from the engine's queue to the first token"),
      'http.request.header.x-request-id': strings('optional', "the caller's X-Request-Id", convention),
      'gen_ai.response.id': string('optional', 'id of the response, once the engine took the request', convention),
      'gen_ai.usage.input_tokens': int(
        'optional',
        'tokens of a prompt that is only scored, of texts that are embedded or reranked',
        convention,
      ),
      'gen_ai.output.type': string('optional', 'text or json', convention),
      'gen_ai.data_source.id': string('optional', 'the index that is searched', convention),
      'llm.tokens.in': int('accepted', 'tokens of the final prompt', { alias: ['gen_ai.usage.input_tokens'] }),
      'llm.tokens.out': int('accepted', 'generated tokens; 0 when decode was never reached', {
        alias: ['gen_ai.usage.output_tokens'],
      }),
      'llm.scored': boolean('optional', 'true when the prompt was only scored (max_tokens: 0)'),
      'llm.choices': int('optional', 'sequences of the request, when more than one'),
      'sampling.reason': string('optional', 'why the trace was exported', { oneOf: SAMPLING_REASONS }),
      'url.path': string('always', 'path without query', convention),
      'url.scheme': string('always', 'http or https', convention),
      'server.address': string('optional', 'host the client called', convention),
      'server.port': int('optional', 'port the client called', convention),
      'error.type': errorType,
      'gen_ai.operation.name': string('optional', 'text_completion, chat, embeddings, retrieval', convention),
      'gen_ai.provider.name': string('optional', 'miniserve', convention),
      'gen_ai.request.max_tokens': int('optional', 'where sent', convention),
      'gen_ai.request.temperature': double('optional', 'where sent', convention),
      'gen_ai.request.top_p': double('optional', 'where sent', convention),
      'gen_ai.request.top_k': int('optional', 'where sent', convention),
      'gen_ai.request.seed': int('optional', 'where sent', convention),
      'llm.stop_sequences': int('optional', "stop strings sent; their text is the caller's content and stays out"),
      'gen_ai.request.stream': boolean('optional', 'true for a stream', convention),
      'gen_ai.request.choice.count': int('optional', 'n, when not 1', convention),
      'gen_ai.response.finish_reasons': strings('optional', 'one per choice', convention),
      'gen_ai.response.time_to_first_chunk': double(
        'optional',
        "seconds from the request's arrival to the first chunk of its stream",
        convention,
      ),
      'gen_ai.usage.cache_read.input_tokens': int('optional', 'prompt tokens served from the prefix cache', convention),
      'gen_ai.conversation.id': string('optional', "the caller's id of its conversation", convention),
      'gen_ai.system_instructions': content('system messages'),
      'gen_ai.input.messages': content('the prompt as the caller sent it, in messages'),
      'gen_ai.output.messages': content('the output, in messages'),
      'gen_ai.tool.definitions': content('the tools offered'),
    },
    events: {
      'request.arrived': { meaning: 'the request reached the server', attributes: {} },
      'grammar.compiled': {
        meaning: 'the grammar of a structured answer is there, or cannot be had',
        attributes: {
          duration_us: int('always', 'from the arrival at the engine'),
          cached: boolean('always', 'it was compiled for an earlier request'),
          ok: boolean('always', 'false: the request is refused'),
        },
      },
      'request.queued': { meaning: 'the engine took the request into its queue', attributes: {} },
      'request.scheduled': {
        meaning: 'a sequence got its first step, or its first after a preemption',
        attributes: {
          kind: string('always', '', { oneOf: ['first', 'resume'] }),
          wait_us: int('always', 'time in the queue'),
          choice: int('optional', 'index of the sequence, when there are several'),
        },
      },
      'request.preempted': {
        meaning: 'a sequence lost its blocks and went back to the queue',
        attributes: { choice: int('optional', 'index of the sequence, when there are several') },
      },
      'request.departed': {
        meaning: 'the response is complete; before [DONE] is written',
        attributes: { finish_reasons: strings('optional', 'one per choice') },
      },
      'request.aborted': {
        meaning: 'the request ended any other way',
        attributes: { reason: string('always', 'see the table of endings') },
      },
      exception,
    },
  },
  'tokenize.input': {
    parent: 'http.handler',
    orParents: [],
    kind: 'internal',
    level: 'contract',
    when: 'the body is valid',
    single: true,
    mayOutliveParent: false,
    logEvent: 'input.tokenized',
    attributes: {
      'llm.tokens.in': int('optional', "tokens of the caller's own prompt; absent where a remote engine tokenizes"),
      'tokenizer.name': string('completed', '`remote` when a remote engine tokenizes'),
      'error.type': errorType,
    },
    events: { exception },
  },
  'rag.retrieve': {
    parent: 'http.handler',
    orParents: [],
    kind: 'internal',
    level: 'contract',
    when: 'the request asked for retrieval',
    single: true,
    mayOutliveParent: false,
    logEvent: 'rag.retrieved',
    attributes: {
      'rag.docs.retrieved': int('completed', 'candidates from vector.search'),
      'rag.docs.reranked': int('completed', 'documents kept after rerank; 0 when the reranker failed or took too long'),
      'rag.index.name': string(
        'completed',
        "the index, once it is found: a name that is none of ours is the caller's text",
        {
          alias: ['gen_ai.data_source.id'],
        },
      ),
      'gen_ai.operation.name': string('optional', 'retrieval', convention),
      'gen_ai.provider.name': string('optional', 'miniserve', convention),
      'gen_ai.retrieval.top_k': int('optional', 'candidates asked for', convention),
      'gen_ai.retrieval.query.text': content('the query'),
      'gen_ai.retrieval.documents': content('the documents: id, score, content'),
      'error.type': errorType,
    },
    events: { exception },
  },
  'embed.query': {
    parent: 'rag.retrieve',
    orParents: ['http.handler'],
    kind: 'internal',
    level: 'contract',
    when: 'below rag.retrieve; below the root on retrieval routes',
    single: false,
    mayOutliveParent: false,
    logEvent: null,
    attributes: {
      'rag.embed.model': string('always', 'embedding model', { alias: ['gen_ai.request.model'] }),
      'rag.embed.dimensions': int('completed', 'length of the vector', {
        alias: ['gen_ai.embeddings.dimension.count'],
      }),
      'gen_ai.operation.name': string('optional', 'embeddings', convention),
      'gen_ai.provider.name': string('optional', 'miniserve', convention),
      'error.type': errorType,
    },
    events: { exception },
  },
  'vector.search': {
    parent: 'rag.retrieve',
    orParents: ['http.handler'],
    kind: 'internal',
    level: 'contract',
    when: 'below rag.retrieve; below the root on retrieval routes',
    single: true,
    mayOutliveParent: false,
    logEvent: null,
    attributes: {
      'rag.search.top_k': int('always', 'candidates asked for'),
      'rag.search.candidates': int('completed', 'candidates found'),
      'rag.search.max_score': double('optional', 'best score; absent when nothing was found'),
      'error.type': errorType,
    },
    events: { exception },
  },
  rerank: {
    parent: 'rag.retrieve',
    orParents: ['http.handler'],
    kind: 'internal',
    level: 'contract',
    when: 'below rag.retrieve; below the root on retrieval routes',
    single: true,
    mayOutliveParent: false,
    logEvent: null,
    attributes: {
      'rag.rerank.model': string('always', 'reranking model; none where passages keep the order of the search'),
      'rag.rerank.candidates': int('always', 'documents scored'),
      'rag.rerank.top_n': int('always', 'documents asked for'),
      'error.type': errorType,
    },
    events: { exception },
  },
  'llm.prefill': {
    parent: 'http.handler',
    orParents: [],
    kind: 'internal',
    level: 'contract',
    when: 'the first scheduled step to the first token on the host, or to the end of the last prompt of a scored-only request',
    single: true,
    mayOutliveParent: false,
    logEvent: 'prefill.done',
    attributes: {
      'llm.tokens.in': int(
        'always',
        'tokens of the final prompt, retrieved context included; a prompt counts once whatever `n`',
      ),
      'llm.cache.hits': int('always', 'tokens served from the prefix cache at first admission'),
      'llm.cache.misses': int('always', 'tokens not found in it; hits + misses = llm.tokens.in'),
      'llm.cache.miss_reason': string('always', 'why not all were found', { oneOf: MISS_REASONS }),
      'llm.queue.us': int('always', 'wait before the first scheduled step'),
      'llm.prefill.chunks': int('completed', 'prefill steps taken'),
      'llm.recomputed_tokens': int('optional', 'tokens computed again after preemptions'),
      'llm.choices': int('optional', 'sequences of the request, when more than one'),
      ...gpuAttributes,
      'error.type': errorType,
    },
    events: {},
  },
  'llm.decode': {
    parent: 'http.handler',
    orParents: [],
    kind: 'internal',
    level: 'contract',
    when: 'the first token to the last; never for scored-only requests',
    single: true,
    mayOutliveParent: false,
    logEvent: 'decode.done',
    attributes: {
      'llm.tokens.out': int('always', 'generated tokens without the EOS or stop token that ended them'),
      'llm.tokens.reasoning': int('optional', 'of them, those of the thought before the answer; where there is one'),
      'llm.decode.steps': int('always', 'forward passes after the first token'),
      'llm.decode.mean_step_ms': double('always', 'a double also when whole; 0.0 for 0 steps'),
      'llm.stop_reason': string('always', 'how it ended', { oneOf: STOP_REASONS }),
      'llm.decode.timeline': string(
        'always',
        'durations of the steps: base64 of delta-coded varints, at most 2,048 characters',
      ),
      'llm.decode.p50_us': int('always', 'median step'),
      'llm.decode.p95_us': int('always', '95th percentile step'),
      'llm.decode.max_us': int('always', 'longest step'),
      'llm.batch.mean_rows': double('always', 'mean number of rows in its steps'),
      'llm.choices': int('optional', 'sequences of the request, when more than one'),
      'llm.draft.tokens': int('optional', 'drafted tokens, with speculation'),
      'llm.draft.accepted': int('optional', 'drafts that were accepted'),
      'llm.sched.first_step': int('optional', 'id of the step that made the first token (steps level)'),
      'llm.sched.last_step': int('optional', 'id of the last step (steps level)'),
      ...gpuAttributes,
      'error.type': errorType,
    },
    events: { 'llm.first_token': { meaning: 'the first token reached the host; exactly once', attributes: {} } },
  },
  'format.output': {
    parent: 'http.handler',
    orParents: [],
    kind: 'internal',
    level: 'contract',
    when: 'building the body; streamed: the first frame to the last one handed to the socket',
    single: true,
    mayOutliveParent: false,
    logEvent: null,
    attributes: {
      'llm.tokens.out': int('completed', 'the same number as on the root'),
      'output.format': string('completed', 'how it was written', { oneOf: ['text', 'json', 'sse'] }),
      'gen_ai.output.type': string('optional', 'text or json', convention),
      'error.type': errorType,
    },
    events: { exception },
  },
  ...STEP_SPANS,
} as const satisfies Readonly<Record<string, SpanSpec>>

export type SpanName = keyof typeof SPANS
/** Spans that a piece of code opens around its own work. */
export type StageName = 'tokenize.input' | 'rag.retrieve' | 'embed.query' | 'vector.search' | 'rerank' | 'format.output'

interface ValueOf {
  string: string
  int: number
  double: number
  boolean: boolean
  'string[]': readonly string[]
}
type SpecsOf<N extends SpanName> = (typeof SPANS)[N]['attributes']
/** Values a span of this name may carry, typed by the table. */
export type SpanAttributes<N extends SpanName> = {
  readonly [K in keyof SpecsOf<N>]?: SpecsOf<N>[K] extends { readonly type: infer T extends AttributeType }
    ? ValueOf[T]
    : never
}

export type AttributeValue = string | number | boolean | readonly string[]

/** The table without its literal types, for code that walks it. */
export const SPAN_TABLE: Readonly<Record<string, SpanSpec>> = SPANS

/** The conventions' constants a span carries besides what its code sets. */
export const CONSTANT_ATTRIBUTES: Readonly<Partial<Record<SpanName, Readonly<Record<string, string>>>>> = {
  'rag.retrieve': { 'gen_ai.operation.name': 'retrieval', 'gen_ai.provider.name': 'miniserve' },
  'embed.query': { 'gen_ai.operation.name': 'embeddings', 'gen_ai.provider.name': 'miniserve' },
}

/** Every attribute name that leaves as a double, whole numbers included. */
export const DOUBLE_ATTRIBUTES: ReadonlySet<string> = new Set(
  Object.values(SPAN_TABLE).flatMap((span) =>
    Object.entries(span.attributes).flatMap(([name, spec]) =>
      spec.type === 'double' ? [name, ...(spec.alias ?? [])] : [],
    ),
  ),
)

/** Lifts a level over the spans of the table. */
export const isInLevel = (span: SpanSpec, level: ContractLevel): boolean =>
  CONTRACT_LEVELS.indexOf(span.level) <= CONTRACT_LEVELS.indexOf(level)
