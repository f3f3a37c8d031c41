/** A list of commands in shared memory: JavaScript writes it, and all threads run it (assembly/index.ts). */
import type { Arena } from './arena.ts'

/** The fields of each command, in the order of its class in assembly/, without the counters. */
const LOW_RANK_FIELDS = [
  ...(['rows', 'x', 'xStride', 'cols', 'normWeight', 'eps', 'out', 'outStride', 'outputs', 'adapters'] as const),
  ...(['table', 'tableStride', 'values', 'between', 'betweenStride', 'rank'] as const),
] as const
const POOL_FIELDS = ['pool', 'blockBytes', 'headBytes', 'keyBytes', 'blockSize', 'paddedBlock', 'kvFormat'] as const
export const COMMANDS = {
  linear: {
    opcode: 1,
    fields: [
      ...(['rows', 'x', 'xStride', 'cols', 'padded', 'normWeight', 'eps', 'rowIndex', 'prepared', 'format'] as const),
      ...(['flags', 'panels', 'panelBytes', 'weights', 'factors', 'bias', 'out', 'outStride', 'epilogue'] as const),
      ...(['softcap', 'scale', 'tiles', 'gathers', 'biasStride', 'alphaP', 'alphaN', 'xieluBeta', 'chunk'] as const),
    ],
  },
  embed: {
    opcode: 2,
    fields: [
      ...(['rows', 'out', 'outStride', 'tokens', 'format', 'flags', 'cols', 'panelBytes', 'weights'] as const),
      ...(['factors', 'scale', 'adds', 'tableRows'] as const),
    ],
  },
  normAdd: {
    opcode: 3,
    fields: ['rows', 'residual', 'residualStride', 'x', 'xStride', 'cols', 'weight', 'eps', 'scale'],
  },
  qkvRopeStore: {
    opcode: 4,
    fields: [
      ...(['rows', 'q', 'qStride', 'qkv', 'qkvStride', 'slots'] as const),
      ...POOL_FIELDS,
      ...(['numHeads', 'numKvHeads', 'headDim', 'normKind', 'qNorm', 'qEps', 'kNorm', 'kEps'] as const),
      ...(['normalizesV', 'vEps', 'rope', 'rotaryDim'] as const),
    ],
  },
  attention: {
    opcode: 5,
    fields: [
      ...(['q', 'qStride', 'out', 'outStride'] as const),
      ...POOL_FIELDS,
      ...(['numKvHeads', 'group', 'headDim', 'scale', 'window', 'softcap', 'items', 'numItems'] as const),
      ...(['positions', 'splits', 'partials', 'partialBytes', 'bidirectional', 'sinks', 'bias'] as const),
      ...(['reach', 'numBuckets', 'relativeScores'] as const),
    ],
  },
  headProducts: {
    opcode: 16,
    fields: [
      'rows',
      'x',
      'xStride',
      'headBytes',
      'table',
      'tableBytes',
      'panels',
      'depth',
      'out',
      'outStride',
      'heads',
    ],
  },
  sample: { opcode: 6, fields: ['rows', 'logits', 'stride', 'vocab', 'specs', 'out'] },
  pack: {
    opcode: 7,
    fields: [
      ...(['format', 'flags', 'panels', 'cols', 'padded', 'rows', 'source', 'scales', 'mins', 'dst'] as const),
      ...(['panelBytes', 'panelStep', 'factors', 'invalid'] as const),
    ],
  },
  route: {
    opcode: 30,
    fields: [
      ...(['rows', 'logits', 'logitsStride', 'numExperts', 'topK', 'sigmoid', 'bias', 'groups', 'usedGroups'] as const),
      ...(['normalizes', 'scale', 'expertScales', 'experts', 'weights'] as const),
    ],
  },
  sort: { opcode: 31, fields: ['pairs', 'topK', 'numExperts', 'experts', 'positions', 'sources', 'tiles'] },
  combine: {
    opcode: 32,
    fields: [
      ...(['rows', 'topK', 'positions', 'weights', 'outputs', 'outputsStride', 'cols', 'out', 'outStride'] as const),
      ...(['bias', 'residual'] as const),
    ],
  },
  score: { opcode: 9, fields: ['rows', 'logits', 'stride', 'vocab', 'scores', 'targets'] },
  layerNorm: {
    opcode: 10,
    fields: ['rows', 'out', 'outStride', 'x', 'xStride', 'cols', 'weight', 'bias', 'eps'],
  },
  rmsNorm: {
    opcode: 11,
    fields: ['rows', 'out', 'outStride', 'x', 'xStride', 'groups', 'width', 'weight', 'eps'],
  },
  pair: { opcode: 12, fields: ['rows', 'x', 'xStride', 'y', 'yStride', 'cols', 'kind', 'scale'] },
  sparseGelu: { opcode: 13, fields: ['rows', 'x', 'xStride', 'cols', 'scale'] },
  matchLength: { opcode: 14, fields: ['rows', 'x', 'xStride', 'reference', 'referenceStride', 'cols'] },
  streams: {
    opcode: 15,
    fields: [
      ...(['rows', 'x', 'xStride', 'stream0', 'stream1', 'stream2', 'stream3', 'streamStride', 'numStreams'] as const),
      ...(['active', 'cols', 'logits', 'logitsStride', 'coefficients', 'scales'] as const),
    ],
  },
  convolution: {
    opcode: 20,
    fields: [
      ...([
        'runs',
        'numRuns',
        'states',
        'slotBytes',
        'x',
        'xStride',
        'out',
        'outStride',
        'channels',
        'kernel',
      ] as const),
      ...(['weight', 'bias', 'gated'] as const),
    ],
  },
  scan: {
    opcode: 21,
    fields: [
      ...(['runs', 'numRuns', 'states', 'slotBytes', 'q', 'k', 'v', 'xStride', 'out', 'outStride', 'heads'] as const),
      ...(['keyHeads', 'tiled', 'keyDim', 'valueDim', 'decayRate', 'stepBias', 'step', 'stepStride', 'beta'] as const),
      ...(['betaStride', 'skip'] as const),
    ],
  },
  gateNorm: {
    opcode: 22,
    fields: [
      ...(['rows', 'x', 'xStride', 'gate', 'gateStride', 'groups', 'width', 'weight', 'weightStep', 'eps'] as const),
      'gatesFirst',
    ],
  },
  lowRankDown: { opcode: 40, fields: LOW_RANK_FIELDS },
  lowRankUp: { opcode: 41, fields: LOW_RANK_FIELDS },
  activate: {
    opcode: 42,
    fields: [
      ...(['rows', 'x', 'xStride', 'out', 'outStride', 'cols', 'epilogue', 'alphaP', 'alphaN', 'xieluBeta'] as const),
    ],
  },
  sigmoidGate: { opcode: 23, fields: ['rows', 'x', 'xStride', 'gate', 'gateStride', 'cols', 'isShared'] },
} as const
type Opcode = keyof typeof COMMANDS
type Fields<T extends Opcode> = Readonly<Record<(typeof COMMANDS)[T]['fields'][number], number>>

/** Fields of type f32; all others are integers or addresses. */
export const FLOAT_FIELDS: ReadonlySet<string> = new Set([
  'eps',
  'qEps',
  'kEps',
  'vEps',
  'scale',
  'softcap',
  'alphaP',
  'alphaN',
  'xieluBeta',
])

const COMMAND_WORDS = 32
const HEADER_WORDS = 16
/** Four times what a step of 128 layers with 8 ops each needs: adapters add two commands per product. */
const MAX_COMMANDS = 4096

/** Writes commands. The threads read them at `address` in memory `memory`. @throws Error when the program is full */
export class Program {
  readonly memory: number
  readonly address: number
  readonly #words: Int32Array
  readonly #floats: Float32Array
  readonly #names: Opcode[] = []

  /** @param memory the index of the arena's memory in the pool */
  constructor(arena: Arena, memory: number) {
    this.memory = memory
    const numWords = HEADER_WORDS + MAX_COMMANDS * COMMAND_WORDS
    this.address = arena.allocate(numWords * 4, 'program')
    this.#words = arena.i32(this.address, numWords)
    this.#floats = arena.f32(this.address, numWords)
  }

  get length(): number {
    return this.#names.length
  }

  /** The names of the recorded commands, in order. */
  get names(): readonly Opcode[] {
    return this.#names
  }

  /** Appends a command with its counters set to zero. */
  add<T extends Opcode>(name: T, values: Fields<T>): void {
    if (this.#names.length === MAX_COMMANDS) throw new Error(`a step has more than ${MAX_COMMANDS} ops`)
    let at = HEADER_WORDS + this.#names.length * COMMAND_WORDS
    this.#words.fill(0, at, at + COMMAND_WORDS)
    this.#words[at++] = COMMANDS[name].opcode
    const fields: readonly (keyof Fields<T>)[] = COMMANDS[name].fields
    for (const field of fields) (FLOAT_FIELDS.has(String(field)) ? this.#floats : this.#words)[at++] = values[field]
    this.#names.push(name)
  }

  /** Moves command `index` to the front, so that it can be run alone. */
  isolate(index: number): void {
    const from = HEADER_WORDS + index * COMMAND_WORDS
    this.#words.copyWithin(HEADER_WORDS, from, from + COMMAND_WORDS)
  }

  setScratch(base: number, bytesPerThread: number): void {
    this.#words[0] = base
    this.#words[1] = bytesPerThread
  }

  clear(): void {
    this.#names.length = 0
  }
}
