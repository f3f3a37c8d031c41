/** Zod schemas of the retrieval requests, for validation, types and /openapi.json. */
import { z } from 'zod'
import { metadataSchema } from '../rag/files.ts'
import { retrievalFields } from '../rag/retrieval-request.ts'
import { INDEX_NAME, MAX_ID_LENGTH } from '../rag/vector-index.ts'
import { list, nullable, nullableFields, tokenIds } from './validation.ts'
import { unsupported } from './wire-elsewhere.ts'

/** The name is checked where the index is looked up; the pattern is for /openapi.json. Admins may prefix it with the owning key's name. */
export const indexNameText = z
  .string()
  .min(1)
  .max(129)
  .meta({ pattern: INDEX_NAME.source.replace('^', '^(?:[A-Za-z0-9._-]{1,64}:)?') })
const indexName = nullable(indexNameText)

const MAX_INPUTS = 2048
/** Maximum number of token ids in an input: more than any embedding model reads. */
const MAX_INPUT_IDS = 2 ** 17
const MAX_RERANK_DOCUMENTS = 1000
/** Maximum number of documents in a request. */
export const MAX_INGEST_DOCUMENTS = 10_000

export const embeddingsRequest = z.object({
  model: nullable(z.string()),
  input: z.union(
    [
      z.string().min(1),
      list(z.string().min(1), { min: 1, max: MAX_INPUTS }),
      tokenIds({ min: 1, max: MAX_INPUT_IDS }),
      list(tokenIds({ min: 1, max: MAX_INPUT_IDS }), { min: 1, max: MAX_INPUTS }),
    ],
    {
      error: `a string, an array of up to ${MAX_INPUTS} strings, an array of token ids or an array of arrays of token ids, none of them empty`,
    },
  ),
  encoding_format: nullable(z.enum(['float', 'base64'])),
  dimensions: nullable(z.int().min(1)),
  truncate_prompt_tokens: unsupported(),
  user: nullable(z.string()),
})

const rerankDocument = z.union([z.string(), z.object({ text: z.string() }).transform(({ text }) => text)], {
  error: 'a string or an object with a text',
})

export const rerankRequest = z.object({
  model: nullable(z.string()),
  query: z.string().min(1),
  documents: list(rerankDocument, { min: 1, max: MAX_RERANK_DOCUMENTS }),
  top_n: nullable(z.int().min(1)),
  return_documents: nullable(z.boolean()),
  max_tokens_per_doc: unsupported(),
  truncate_prompt_tokens: unsupported(),
})

/** Maximum number of pairs in a request. */
const MAX_PAIRS = 1000
const scoreInput = z.union([z.string(), list(z.string(), { min: 1, max: MAX_PAIRS })], {
  error: `a string or an array of 1 to ${MAX_PAIRS} strings`,
})

/** As in vLLM: one text with each of several, or two lists of the same length. */
export const scoreRequest = z.object({ model: nullable(z.string()), text_1: scoreInput, text_2: scoreInput })

/** Maximum number of values in a document's metadata, including those in lists. */
const MAX_METADATA_VALUES = 1024

function isSmall(metadata: unknown): boolean {
  if (typeof metadata !== 'object' || metadata === null) return true
  const values: unknown[] = Object.values(metadata)
  return (
    values.length <= MAX_METADATA_VALUES &&
    values.reduce<number>((sum, value) => sum + (Array.isArray(value) ? value.length : 1), 0) <= MAX_METADATA_VALUES
  )
}

/** What a document's id has to be, for error messages. */
const DOCUMENT_ID_RULE = `a string of 1 to ${MAX_ID_LENGTH} characters, other than . and .., or a whole number`

/** One document. Each is validated separately, so that an invalid one does not refuse the others. */
export const ragDocument = z.object({
  id: z.union(
    [
      z
        .string()
        .regex(/^(?!\.{1,2}$)/, DOCUMENT_ID_RULE)
        .min(1)
        .max(MAX_ID_LENGTH),
      z.int().transform(String),
    ],
    {
      error: DOCUMENT_ID_RULE,
    },
  ),
  text: z.string(),
  source: nullable(z.string().max(MAX_ID_LENGTH * 4)),
  format: nullable(z.enum(['markdown', 'text', 'html', 'csv'])),
  metadata: nullable(
    z
      .unknown()
      .refine(isSmall, { error: `an object of at most ${MAX_METADATA_VALUES} values` })
      .pipe(metadataSchema),
  ),
})

export const ragDocumentsRequest = z.object({
  index: indexName,
  documents: list(z.unknown(), { min: 1, max: MAX_INGEST_DOCUMENTS }),
})

export const ragQueryRequest = z.object({
  ...nullableFields(retrievalFields),
  index: indexName,
  query: z.string().min(1),
})
