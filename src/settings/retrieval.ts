/** Retrieval: indexes, stores and their models. */
import { field } from './field.ts'
import { fusionWeights, choiceOf, nonEmptyText, postgresUrl } from './values.ts'

export const retrievalSettings = {
  ragIndex: field(nonEmptyText.default('docs'), {
    flag: 'rag-index',
    value: 'NAME',
    help: 'default index of requests with "rag": true',
  }),
  ragStore: field(choiceOf(['memory', 'pgvector']).default('memory'), {
    flag: 'rag-store',
    value: 'memory|pgvector',
    help: 'where indexes are stored',
  }),
  ragStoreUrl: field(postgresUrl.nullable().default(null), {
    flag: 'rag-store-url',
    env: 'MINISERVE_RAG_STORE_URL',
    value: 'URL',
    isUnquoted: true,
    help: 'postgres://… for --rag-store pgvector',
  }),
  embeddingModel: field(nonEmptyText.nullable().default(null), {
    flag: 'embedding-model',
    value: 'PATH|ID',
    help: 'embedding model: a sentence-transformers folder (safetensors), a .gguf file, hf:ORG/NAME, ONNX (folder or hub id) or static embeddings (model2vec)',
    defaultText: 'the bundled model',
  }),
  rerankerModel: field(nonEmptyText.nullable().default(null), {
    flag: 'reranker-model',
    value: 'PATH|ID',
    help: 'reranking model, a cross-encoder or Qwen3-Reranker: a folder (safetensors), a .gguf file, hf:ORG/NAME, or ONNX (folder or hub id)',
    defaultText: 'the bundled embedding model compares the question and each passage token by token',
  }),
  ragWeights: field(fusionWeights.default({}), {
    flag: 'rag-weights',
    value: 'NAME=NUMBER,…',
    help: 'weights of the scores that rank passages (vector, text, rerank, document, topic), such as vector=1,text=0.5',
    defaultText: 'those of the models',
  }),
}
