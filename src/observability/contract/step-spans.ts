/** The span contract's levels `steps` and `kernels`: KV tiers, and the engine's own steps. */
import { boolean, childSpan, convention, int, type SpanSpec, string } from './span-spec.ts'

const stepSpan = { ...childSpan, level: 'steps', single: false, events: {} } as const

const kvAttributes = {
  'kv.blocks': int('always', 'KV blocks found, moved or stored; while the span is open, the number asked for'),
  'kv.bytes': int('completed', 'bytes moved'),
  'kv.ok': boolean('completed', 'false when the operation failed and the blocks are recomputed'),
  'error.type': string('optional', 'why the operation failed', convention),
}

export const STEP_SPANS = {
  'kv.lookup': {
    ...stepSpan,
    parent: 'llm.prefill',
    orParents: ['http.handler'],
    when: 'a lower KV tier was asked',
    attributes: kvAttributes,
  },
  'kv.retrieve': {
    ...stepSpan,
    parent: 'llm.prefill',
    orParents: ['http.handler'],
    when: 'blocks came from a lower KV tier',
    attributes: kvAttributes,
  },
  'kv.disk_read': {
    ...stepSpan,
    parent: 'kv.retrieve',
    orParents: ['llm.prefill', 'http.handler'],
    when: 'blocks were read from disk',
    attributes: kvAttributes,
  },
  'kv.store': {
    ...stepSpan,
    parent: 'http.handler',
    when: 'blocks were written to a lower KV tier',
    mayOutliveParent: true,
    attributes: kvAttributes,
  },
  'decode.step': {
    ...stepSpan,
    parent: 'llm.decode',
    when: 'a sampled step of the request, linked to its engine.step',
    attributes: {
      'engine.step.id': int('always', 'the step'),
      'engine.step.rows': int('always', 'rows in the step'),
    },
  },
  'engine.step': {
    ...stepSpan,
    parent: null,
    when: 'a sampled step of the engine; linked with the requests it served',
    attributes: {
      'engine.step.id': int('always', 'number of the step since start'),
      'engine.step.rows': int('always', 'sequences in it'),
      'engine.step.prefill_tokens': int('always', 'prompt tokens computed'),
      'engine.step.decode_tokens': int('always', 'decode rows computed'),
      'engine.running': int('always', 'sequences running'),
      'engine.waiting': int('always', 'sequences waiting'),
      'engine.kv.free_blocks': int('always', 'KV blocks free after it'),
      'engine.kv.blocks': int('always', 'KV blocks of the pool'),
      'llm.gpu.us': int('optional', 'device time, if the adapter has timestamps'),
    },
    events: {
      'gpu.kernel': {
        meaning: 'device time of one kernel in the step (kernels level)',
        attributes: {
          kernel: string('always', 'name of the kernel'),
          us: int('always', 'device time'),
          count: int('always', 'dispatches'),
        },
      },
    },
  },
} as const satisfies Readonly<Record<string, SpanSpec>>
