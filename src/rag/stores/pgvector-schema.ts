/** The tables of the pgvector store, version by version. A database of an older version is updated on first use. */
import type { PoolClient } from 'pg'
import { storeUnavailable } from '../errors.ts'

/** Key of the advisory lock for changes of the tables: concurrent CREATE ... IF NOT EXISTS can fail. */
const SCHEMA_LOCK = 0x6d69_6e69

/** The migration of each version to the next. Released ones never change. The first also applies to databases without a version. */
const MIGRATIONS: readonly string[] = [
  `
create table if not exists miniserve.indexes (
  index_id bigint generated always as identity primary key,
  name text not null unique,
  model text not null,
  dimensions int not null
);
create table if not exists miniserve.documents (
  document_id bigint generated always as identity primary key,
  index_id bigint not null references miniserve.indexes on delete cascade,
  id text not null,
  source text not null,
  content_hash text not null,
  origin text not null,
  metadata jsonb not null,
  unique (index_id, id)
);
create table if not exists miniserve.chunks (
  chunk_id bigint generated always as identity primary key,
  index_id bigint not null references miniserve.indexes on delete cascade,
  document_id bigint not null references miniserve.documents on delete cascade,
  chunk int not null,
  text text not null,
  headings text[] not null,
  start_offset int not null,
  end_offset int not null,
  num_tokens int not null,
  num_terms int not null,
  embedding vector not null,
  unique (document_id, chunk)
);
create index if not exists chunks_by_index on miniserve.chunks (index_id);
create table if not exists miniserve.postings (
  index_id bigint not null,
  term text not null,
  chunk_id bigint not null references miniserve.chunks on delete cascade,
  frequency int not null,
  primary key (index_id, term, chunk_id)
);
create index if not exists postings_by_chunk on miniserve.postings (chunk_id);
`,
  // Totals, which every request had to count before.
  `
alter table miniserve.documents
  add column num_chunks int not null default 0, add column num_terms bigint not null default 0, add column num_bytes bigint not null default 0;
alter table miniserve.indexes
  add column num_documents bigint not null default 0, add column num_chunks bigint not null default 0,
  add column num_terms bigint not null default 0, add column num_bytes bigint not null default 0;
update miniserve.documents d set num_chunks = c.n, num_terms = c.terms, num_bytes = c.bytes
  from (select document_id, count(*) as n, sum(num_terms) as terms, sum(octet_length(text) + 4 * vector_dims(embedding)) as bytes
        from miniserve.chunks group by document_id) as c where c.document_id = d.document_id;
update miniserve.indexes i set num_documents = d.n, num_chunks = d.chunks, num_terms = d.terms, num_bytes = d.bytes
  from (select index_id, count(*) as n, sum(num_chunks) as chunks, sum(num_terms) as terms, sum(num_bytes) as bytes
        from miniserve.documents group by index_id) as d where d.index_id = i.index_id;
`,
  'alter table miniserve.documents add column stamp text',
  'alter table miniserve.chunks add column anchor text',
  // A chunk's terms become one tsvector instead of a row each. A term's position is its count in the chunk.
  `
alter table miniserve.chunks add column terms tsvector not null default '';
update miniserve.chunks c set terms = p.terms::tsvector
  from (select chunk_id, string_agg('''' || replace(replace(term, '\\', '\\\\'), '''', '''''') || ''':' || least(frequency, 16383), ' ') as terms
        from miniserve.postings group by chunk_id) as p where p.chunk_id = c.chunk_id;
create table miniserve.terms (
  index_id bigint not null references miniserve.indexes on delete cascade,
  term text collate "C" not null,
  num_chunks int not null,
  primary key (index_id, term)
) with (fillfactor = 80);
insert into miniserve.terms (index_id, term, num_chunks)
  select index_id, term, count(*) from miniserve.postings join miniserve.indexes using (index_id) group by index_id, term;
drop table miniserve.postings;
-- The document's own key says as much, and each row would be checked against both.
alter table miniserve.chunks drop constraint if exists chunks_index_id_fkey;
create index documents_by_metadata on miniserve.documents using gin (metadata jsonb_path_ops);
do $$ declare stale text; begin
  for stale in select indexname from pg_indexes where schemaname = 'miniserve' and indexname ~ '^chunks_hnsw_[0-9]+$' loop
    execute 'drop index miniserve.' || stale;
  end loop;
end $$;
`,
]

/** The first version of pgvector with half-precision vectors and iterative scans. */
const LEAST_PGVECTOR = [0, 8] as const

/** Updates the schema within a transaction. @throws RagError store_unavailable, also for tables of a newer version */
export async function migrate(client: PoolClient): Promise<void> {
  // Migrating millions of rows takes long.
  await client.query('set local statement_timeout = 0')
  await client.query('select pg_advisory_xact_lock($1)', [SCHEMA_LOCK])
  try {
    await client.query('create extension if not exists vector')
  } catch (error) {
    throw storeUnavailable('the pgvector store needs the extension vector in its database', error)
  }
  const { rows: extensions } = await client.query<{ version: string }>(
    `select extversion as version from pg_extension where extname = 'vector'`,
  )
  const found = extensions[0]?.version ?? 'none'
  const [major = 0, minor = 0] = found.split('.').map(Number)
  if (major < LEAST_PGVECTOR[0] || (major === LEAST_PGVECTOR[0] && minor < LEAST_PGVECTOR[1])) {
    throw storeUnavailable(
      `the pgvector store needs the extension vector ${LEAST_PGVECTOR.join('.')} or newer, found ${found} (ALTER EXTENSION vector UPDATE)`,
    )
  }
  await client.query('create schema if not exists miniserve')
  await client.query('create table if not exists miniserve.schema_version (version int not null)')
  const { rows } = await client.query<{ version: number }>('select version from miniserve.schema_version')
  const version = rows[0]?.version ?? 0
  if (version > MIGRATIONS.length) {
    throw storeUnavailable(
      `the database has version ${version} of the tables, this server knows ${MIGRATIONS.length}: update miniserve`,
    )
  }
  if (version === MIGRATIONS.length) return
  // Writers of an older server lock their index first: this waits for them and keeps others out.
  const { rows: tables } = await client.query<{ exists: boolean }>(
    `select to_regclass('miniserve.indexes') is not null as exists`,
  )
  if (tables[0]?.exists) await client.query('lock table miniserve.indexes in access exclusive mode')
  for (const migration of MIGRATIONS.slice(version)) await client.query(migration)
  await client.query('delete from miniserve.schema_version')
  await client.query('insert into miniserve.schema_version (version) values ($1)', [MIGRATIONS.length])
}
