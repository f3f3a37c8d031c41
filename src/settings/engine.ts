/** The engine: scheduling, the KV cache, speculation, engines elsewhere. */
import { z } from 'zod'
import { field } from './field.ts'
import { integer, kvCacheMemory, choiceOf, size, nonEmptyText, baseUrl } from './values.ts'

export const engineSettings = {
  maxModelLen: field(integer(16, 10_000_000).nullable().default(null), {
    flag: 'max-model-len',
    value: 'N',
    help: 'limit on prompt and output tokens of a sequence',
    defaultText: "the model's",
  }),
  maxNumSeqs: field(integer(1, 1024).default(64), {
    flag: 'max-num-seqs',
    value: 'N',
    help: 'limit on sequences that run at the same time',
  }),
  maxNumBatchedTokens: field(integer(16, 65_536).nullable().default(null), {
    flag: 'max-num-batched-tokens',
    value: 'N',
    help: 'token budget of a step, prefill chunks and decode together',
    defaultText: '512 on cpu, 2048 on webgpu',
  }),
  blockSize: field(integer(1, 256).default(16), {
    flag: 'block-size',
    value: 'N',
    help: 'tokens per KV block',
  }),
  maxPrefillMs: field(integer(1, 3_600_000).default(100), {
    flag: 'max-prefill-ms',
    value: 'MS',
    help: 'measured time limit for the prefill part of a step while other sequences decode',
  }),
  onFatal: field(choiceOf(['restart', 'exit']).default('restart'), {
    flag: 'on-fatal',
    value: 'restart|exit',
    help: 'what to do when the device or its thread fails: restart it (with growing pauses, /ready is 503 meanwhile), or exit with code 1',
  }),
  numKvBlocks: field(integer(2, 10_000_000).nullable().default(null), {
    flag: 'num-kv-blocks',
    value: 'N',
    help: 'number of KV blocks',
    defaultText: 'from memory',
  }),
  kvCacheMemory: field(kvCacheMemory.nullable().default(null), {
    flag: 'kv-cache-memory',
    value: 'SIZE|SHARE',
    help: 'memory for the KV cache: bytes (4G) or a share of device memory (0.8)',
    defaultText: 'what the sequences need, as far as the device has it',
  }),
  prefixCaching: field(z.boolean().default(true), {
    flag: 'no-prefix-caching',
    help: 'do not reuse KV blocks of earlier prompts',
  }),
  kvHostMemoryBytes: field(size.default(0), {
    flag: 'kv-host-memory',
    value: 'SIZE',
    help: 'host memory for KV blocks of finished sequences, such as 512M',
    defaultText: '0',
  }),
  kvCacheDir: field(nonEmptyText.nullable().default(null), {
    flag: 'kv-cache-dir',
    value: 'FOLDER',
    help: 'folder for KV blocks of finished sequences, kept across restarts',
    defaultText: 'none',
  }),
  kvCacheMaxBytes: field(size.default(8 * 1024 ** 3), {
    flag: 'kv-cache-max-size',
    value: 'SIZE',
    help: 'size limit of --kv-cache-dir; the least recently used blocks are deleted first',
    defaultText: '8G',
  }),
  speculation: field(z.boolean().default(true), {
    flag: 'no-speculation',
    help: 'turn off speculative decoding by prompt lookup',
  }),
  runAhead: field(integer(0, 1).default(1), {
    flag: 'run-ahead',
    value: '0|1',
    help: 'how many steps to plan before the tokens of the last step are known',
  }),
  engineUrls: field(z.array(baseUrl).default([]), {
    flag: 'engine-url',
    env: 'MINISERVE_ENGINE_URL',
    value: 'URL',
    isUnquoted: true,
    help: 'URL of an OpenAI-compatible engine to use instead of the local one; repeat it for several engines with the same model',
    defaultText: 'none: the local engine',
  }),
  engineApiKey: field(nonEmptyText.nullable().default(null), {
    env: 'MINISERVE_ENGINE_API_KEY',
    help: 'key for --engine-url',
  }),
  seed: field(integer(0, 4_294_967_295).nullable().default(null), {
    flag: 'seed',
    value: 'N',
    help: 'seed for requests without one',
    defaultText: 'random per request',
  }),
}
