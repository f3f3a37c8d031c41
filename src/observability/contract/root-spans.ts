/** The span contract: http.handler, one for every request. */
import {
  boolean,
  childSpan,
  content,
  convention,
  double,
  errorType,
  exception,
  int,
  type SpanSpec,
  string,
  strings,
} from './span-spec.ts'

/** Why a trace was exported. */
const SAMPLING_REASONS = ['head', 'baseline', 'error', 'abort', 'empty', 'ttft', 'slowest'] as const

export const ROOT_SPANS = {
  'http.handler': {
    ...childSpan,
    parent: null,
    kind: 'server',
    when: 'every request of a generation or retrieval route',
    attributes: {
      'http.method': string('always', 'request method', { alias: ['http.request.method'] }),
      'http.route': string('always', 'the route pattern'),
      'http.status_code': int('always', 'the status sent (499: the client left before there was one)', {
        alias: ['http.response.status_code'],
      }),
      'llm.model': string('optional', 'served model name, once the body named a model that is served', {
        alias: ['gen_ai.request.model', 'gen_ai.response.model'],
      }),
      'llm.model.parent': string('optional', 'the model that llm.model is an adapter of'),
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
      'gen_ai.request.max_tokens': int('optional', 'if the request set it', convention),
      'gen_ai.request.temperature': double('optional', 'if the request set it', convention),
      'gen_ai.request.top_p': double('optional', 'if the request set it', convention),
      'gen_ai.request.top_k': int('optional', 'if the request set a limit', convention),
      'gen_ai.request.seed': int('optional', 'if the request set it', { convention: true, isSigned: true }),
      'llm.stop_sequences': int('optional', "stop strings sent; their text is the caller's content and stays out"),
      'gen_ai.request.stream': boolean('optional', 'true for a stream', convention),
      'gen_ai.request.choice.count': int('optional', 'n, when not 1', convention),
      'gen_ai.response.finish_reasons': strings('optional', 'one for each choice', convention),
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
      'gen_ai.retrieval.query.text': content('the query of a retrieval route'),
      'gen_ai.retrieval.documents': content('the documents found: id, score, content'),
    },
    events: {
      'request.arrived': { meaning: 'the request reached the server', attributes: {} },
      'grammar.compiled': {
        meaning: 'the grammar of a structured answer was compiled, or could not be',
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
        attributes: { finish_reasons: strings('optional', 'one for each choice') },
      },
      'request.aborted': {
        meaning: 'the request ended any other way',
        attributes: { reason: string('always', 'see the table of endings') },
      },
      exception,
    },
  },
} as const satisfies Readonly<Record<string, SpanSpec>>
