-- What stands after the migrations: tables, columns, types, keys and indexes of the core and of course_content.
begin;
select plan(36);

select tables_are('public', array['artifact_chunk_1536', 'artifact_chunk_3072', 'artifact_chunks', 'artifact_full_1536', 'artifact_full_3072', 'artifact_summary_1536', 'artifact_summary_3072', 'artifact_workspace_members', 'artifact_workspaces', 'artifacts',
  'article_chunks', 'articles', 'bora_docs', 'course_content', 'image_embeddings', 'image_embeddings_1536', 'lexicon', 'phrases', 'product_images', 'products'], 'public holds the systems'' tables');
select ok(not exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                       where n.nspname = 'reembed' and c.relkind in ('r', 'p') and obj_description(c.oid, 'pg_class') is null),
          'every table of reembed says what it is for');
select ok(not exists (select from pg_proc p where p.pronamespace in ('public'::regnamespace, 'reembed'::regnamespace)
                         and p.proname !~ '^track_(version|vectors)_\d+$' and obj_description(p.oid, 'pg_proc') is null),
          'so does every function that the migrations write');
select is_empty(
  $$ select proname from pg_proc where pronamespace in ('public'::regnamespace, 'reembed'::regnamespace) group by pronamespace, proname having count(*) > 1 $$,
  'no name has two functions, neither in public nor in reembed');

-- The core ---------------------------------------------------------------------------------------------------------------------------

select bag_has(
  $$ select tablename::text collate "default" from pg_tables where schemaname = 'reembed' $$,
  $$ values ('spaces'), ('collections'), ('versions'), ('jobs'), ('records'), ('usage'), ('events') $$,
  'the core''s tables stand in reembed');
select is_empty(
  $$ select relname from pg_class where relnamespace = 'reembed'::regnamespace and relkind in ('r', 'p') and not relrowsecurity $$,
  'each with row level security');
select col_is_pk('reembed', 'spaces', 'id', 'a space is named by its id');
select col_is_pk('reembed', 'jobs', array['version_id', 'row_id'], 'at most one job for each row of a version');
select col_is_pk('reembed', 'records', array['version_id', 'row_id'], 'at most one record for each row of a version');
select col_is_unique('reembed', 'versions', array['collection_id', 'number'], 'versions are numbered within their collection');
select col_is_unique('reembed', 'versions', 'match_function', 'each version has a search function of its own');
select col_not_null('reembed', 'collections', 'active_version', 'a collection always has an active version');
select ok((select condeferrable and condeferred from pg_constraint where conname = 'collections_active_version_fkey'),
          'collection and first version may be written in either order');
select is_empty(
  $$ select attname from pg_attribute where attrelid in ('reembed.jobs'::regclass, 'reembed.records'::regclass)
        and attnum > 0 and not attisdropped and atttypid in ('extensions.vector'::regtype, 'extensions.halfvec'::regtype) $$,
  'job state and vectors stand apart');
select is_empty(
  $$ select conname from pg_constraint where contype = 'f' and conrelid in ('reembed.jobs'::regclass, 'reembed.records'::regclass) $$,
  'a write of the app looks nothing up');
select has_index('reembed', 'jobs', 'jobs_due_idx', array['version_id', 'priority', 'run_at'], 'due jobs are found in order');

select throws_ok($$ update reembed.spaces set model = 'another' where id = 'openai/text-embedding-3-small@1536' $$, 'RE008', null,
                 'what a space means cannot change');
select lives_ok($$ update reembed.spaces set price_per_mtok = 0.03 where id = 'openai/text-embedding-3-small@1536' $$, 'its price can');
select throws_ok($$ insert into reembed.spaces (id, provider, model, dimensions) values ('openai/x@9', 'openai', 'x', 8) $$, '23514', null,
                 'a space''s id says what it is');
select throws_ok($$ select reembed.add_space('openai', 'huge', 4001) $$, '23514', null, 'no index holds more than 4000 dimensions');

-- course_content -----------------------------------------------------------------------------------------------------------------------

select results_eq(
  $$ select attname::text collate "default", format_type(atttypid, atttypmod), attnotnull from pg_attribute
      where attrelid = 'public.course_content'::regclass and attnum > 0 and not attisdropped order by attnum $$,
  $$ values ('id', 'uuid', true), ('title', 'text', true), ('content', 'text', true), ('url', 'text', false), ('content_type', 'text', false),
            ('part_id', 'text', false), ('module_id', 'text', false), ('parent_id', 'uuid', false), ('importance', 'real', false),
            ('embedding', 'vector(384)', false), ('embedding_1536', 'vector(1536)', false) $$,
  'course_content has the columns that its users know, and the new vectors beside the old');
select col_is_pk('public', 'course_content', 'id', 'its key is the id');
select col_default_is('public', 'course_content', 'id', 'gen_random_uuid()', 'which makes itself');
select is((select pg_get_expr(adbin, adrelid) from pg_attrdef join pg_attribute a on a.attrelid = adrelid and a.attnum = adnum
            where adrelid = 'public.course_content'::regclass and a.attname = 'importance'), '0.7', 'importance starts at 0.7');
select results_eq(
  $$ select a.attname::text collate "default", o.opcname::text collate "default" from pg_index i
       join pg_class x on x.oid = i.indexrelid join pg_am m on m.oid = x.relam and m.amname = 'hnsw'
       join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0] join pg_opclass o on o.oid = i.indclass[0]
      where i.indrelid = 'public.course_content'::regclass and i.indisvalid order by 1 $$,
  $$ values ('embedding', 'vector_cosine_ops'), ('embedding_1536', 'vector_cosine_ops') $$,
  'each version has an HNSW index for cosine distance');
select set_eq(
  $$ select tgname::text collate "default" from pg_trigger where tgrelid = 'public.course_content'::regclass and not tgisinternal $$,
  $$ values ('reembed_1_insert'), ('reembed_1_update'), ('reembed_1_delete'), ('reembed_1_truncate') $$,
  'only the maintained version has triggers');

-- The registry's rows ---------------------------------------------------------------------------------------------------------------------

select results_eq(
  $$ select v.number, v.space_id, v.vector_column::text collate "default", v.match_function::text collate "default", v.match_threshold, v.maintained, v.id = c.active_version
       from reembed.versions v join reembed.collections c on c.id = v.collection_id where c.name = 'course_content' order by v.number $$,
  $$ values (1, 'supabase/gte-small@384', 'embedding', 'match_course_content', 0.5::double precision, true, true),
            (2, 'openai/text-embedding-3-small@1536', 'embedding_1536', 'match_course_content_v2', 0.25::double precision, false, false) $$,
  'course_content is maintained and searched in its first version, and has its second prepared');
select is((select filter_columns from reembed.collections where name = 'course_content'), array['content_type', 'part_id', 'module_id']::name[],
          'its searches filter by type, part and module');
select is((select provolatile::text || prosecdef::text || proretset::text from pg_proc where oid = 'public.match_course_content'::regproc), 'sfalsetrue',
          'a search is stable, runs with its caller''s rights and returns rows');
select is((select provolatile::text || prosecdef::text || proretset::text from pg_proc where oid = 'public.match_course_content_v2'::regproc), 'sfalsetrue',
          'so does the second version''s');
select is_empty($$ select * from reembed.violations() $$, 'a new database keeps the law');
select is_empty(
  $$ select p.oid::regprocedure from pg_proc p where p.pronamespace = 'reembed'::regnamespace and p.prosecdef
        and p.proname !~ '^track_(version|vectors)_\d+$' and p.proname <> 'write_artifact_chunks' $$,
  'in reembed only the triggers'' functions run with their owner''s rights');

-- The news archive -------------------------------------------------------------------------------------------------------------------

select results_eq(
  $$ select attname::text collate "default", format_type(atttypid, atttypmod), attnotnull from pg_attribute
      where attrelid = 'public.article_chunks'::regclass and attnum > 0 and not attisdropped order by attnum $$,
  $$ values ('id', 'bigint', true), ('article_id', 'bigint', true), ('chunk_index', 'integer', true), ('text', 'text', true), ('title', 'text', false),
            ('url', 'text', false), ('embedding', 'text', false), ('embedding_vector', 'vector(768)', false), ('embedding_3072', 'halfvec(3072)', false) $$,
  'article_chunks has the columns that its users know, and the new vectors beside the old');
select results_eq(
  $$ select attname::text collate "default", format_type(atttypid, atttypmod) from pg_attribute
      where attrelid = 'public.articles'::regclass and attnum > 0 and not attisdropped order by attnum $$,
  $$ values ('id', 'bigint'), ('url', 'text'), ('title', 'text'), ('content', 'text'), ('published_at', 'timestamp with time zone') $$, 'articles has its own');
select is((select text_column::text from reembed.version_numbered('article_chunks', 1)), 'embedding', 'the texts of old are where v1''s vectors may be read from');
select is((select keeps_text from reembed.version_numbered('article_chunks', 1)), false, 'and are not kept in step unasked');

select * from finish();
rollback;
