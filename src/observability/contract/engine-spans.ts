/** The span contract: the two phases of the engine. */
import type { StopKind } from '../../engine/events.ts'
import { double, errorType, exception, int, rootChild, type SpanSpec, string } from './span-spec.ts'

const MISS_REASONS = ['none', 'cold', 'evicted', 'diverged', 'disabled'] as const
const STOP_KINDS: readonly StopKind[] = ['eos', 'stop_string', 'stop_token', 'tool_calls']
const STOP_REASONS = ['stop', 'length', 'abort', 'error'] as const

const gpuAttributes = {
  'llm.gpu.us': int('optional', 'device time of its steps, if the adapter has timestamps'),
  'llm.gpu.share_us': int('optional', 'its share of that time, by rows'),
}

export const ENGINE_SPANS = {
  'llm.prefill': {
    ...rootChild,
    when: 'the first scheduled step to the first token on the host, or to the end of the last prompt of a scored-only request',
    logEvent: 'prefill.done',
    attributes: {
      'llm.tokens.in': int(
        'always',
        'tokens of the final prompt, retrieved context included; a prompt counts once for any `n`',
      ),
      'llm.cache.hits': int('always', 'tokens served from the prefix cache at first admission'),
      'llm.cache.misses': int('always', 'tokens not found in it; hits + misses = llm.tokens.in'),
      'llm.cache.miss_reason': string('always', 'why not all tokens were found', { oneOf: MISS_REASONS }),
      'llm.queue.us': int('always', 'wait before the first scheduled step'),
      'llm.prefill.chunks': int('completed', 'prefill steps taken'),
      'llm.recomputed_tokens': int('optional', 'tokens computed again after preemptions'),
      'llm.choices': int('optional', 'sequences of the request, when more than one'),
      ...gpuAttributes,
      'error.type': errorType,
    },
  },
  'llm.decode': {
    ...rootChild,
    when: 'the first token to the last; never for scored-only requests',
    logEvent: 'decode.done',
    attributes: {
      'llm.tokens.out': int('always', 'generated tokens without the EOS or stop token that ended them'),
      'llm.tokens.reasoning': int(
        'optional',
        'those of them that belong to the reasoning before the answer, if there is any',
      ),
      'llm.decode.steps': int('always', 'forward passes after the first token'),
      'llm.decode.mean_step_ms': double('always', 'mean duration of a step; 0.0 for 0 steps'),
      'llm.stop_reason': string('always', 'how it ended', { oneOf: STOP_REASONS }),
      'llm.stop_kind': string(
        'optional',
        'what stopped it; absent for other reasons, if choices differ, and if a remote engine does not report it',
        { oneOf: STOP_KINDS },
      ),
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
    events: {
      'llm.first_token': { meaning: 'the first token reached the host; exactly once', attributes: {} },
      exception,
    },
  },
} as const satisfies Readonly<Record<string, SpanSpec>>
