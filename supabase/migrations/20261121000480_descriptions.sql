-- What a language model says of a picture, so that a picture is described once, however many rows show it and however often they are embedded.
-- Makes: reembed.image_descriptions; begin_description, end_description with their doors for service_role.
-- Risks: none. A description is some hundred bytes; those of pictures that no row shows any more may be deleted, and are bought again when needed.
--
-- The job of the row that shows a picture is also the job of its description: leased, retried, given up and paid with it. What is kept here is only
-- what was bought, and who is buying: two rows, or two workers, that meet at one picture buy it once.

create table reembed.image_descriptions (
  describer text not null check (describer ~ '^[a-z][a-z0-9_-]*/[A-Za-z0-9][A-Za-z0-9._:/+#-]{0,199}$'),
  image_hash bytea not null check (octet_length(image_hash) = 32),
  description text check (description <> ''),
  ticket uuid,
  lease_until timestamptz,
  described_at timestamptz,
  primary key (describer, image_hash),
  check (num_nonnulls(description, described_at) = case when ticket is null then 2 else 0 end),
  check ((ticket is null) = (lease_until is null))
);
comment on table reembed.image_descriptions is 'Descriptions of pictures, by who wrote them and the picture''s content; and the pictures that are being described.';
comment on column reembed.image_descriptions.describer is 'The language model and the instruction it followed, as in openai/gpt-4.1-mini#1.';
comment on column reembed.image_descriptions.image_hash is 'SHA-256 of the picture''s bytes.';
comment on column reembed.image_descriptions.ticket is 'Of who is describing it, until lease_until.';
alter table reembed.image_descriptions enable row level security;

create function reembed.begin_description(describer text, image_hash text, lease_seconds int default 120) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  mine constant uuid := gen_random_uuid();
  d reembed.image_descriptions;
begin
  if image_hash is null or image_hash !~ '^[0-9a-f]{64}$' then
    raise exception using errcode = 'RE004', message = 'image_hash must be SHA-256 in hex', hint = 'Pass 64 characters of 0-9 and a-f.';
  end if;
  if lease_seconds is null then
    select * into d from reembed.image_descriptions x
     where x.describer = begin_description.describer and x.image_hash = decode(begin_description.image_hash, 'hex') and x.description is not null;
    return case when found then jsonb_build_object('description', d.description) else '{}'::jsonb end;
  end if;
  perform reembed.check_range('lease_seconds', lease_seconds, 1, 3600);
  insert into reembed.image_descriptions as x (describer, image_hash, ticket, lease_until)
  values (begin_description.describer, decode(begin_description.image_hash, 'hex'), mine, clock_timestamp() + make_interval(secs => lease_seconds))
  on conflict on constraint image_descriptions_pkey do update set ticket = excluded.ticket, lease_until = excluded.lease_until
   where x.description is null and x.lease_until < clock_timestamp()
  returning * into d;
  if found then
    return jsonb_build_object('ticket', mine);
  end if;
  select * into d from reembed.image_descriptions x
   where x.describer = begin_description.describer and x.image_hash = decode(begin_description.image_hash, 'hex');
  return case when d.description is null then jsonb_build_object('busy', true) else jsonb_build_object('description', d.description) end;
end
$$;
comment on function reembed.begin_description(text, text, int) is
  'Before a picture is described. image_hash: SHA-256 of its bytes in hex. Returns { description: the stored one } or { ticket: describe it, then end_description } or { busy: another is describing it } or, with lease_seconds null, which only looks, {}. A ticket whose lease has run out may be another''s. RE004 on bad arguments.';

create function reembed.end_description(ticket uuid, description text default null) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  if nullif(end_description.description, '') is null then
    delete from reembed.image_descriptions d where d.ticket = end_description.ticket;
  else
    update reembed.image_descriptions d
       set description = left(end_description.description, 4000), described_at = clock_timestamp(), ticket = null, lease_until = null
     where d.ticket = end_description.ticket;
  end if;
end
$$;
comment on function reembed.end_description(uuid, text) is
  'After a picture was described: stores what was said of it; null: nothing was, and another may try. Does nothing where the ticket ran out and another took the picture.';
create index image_descriptions_ticket_idx on reembed.image_descriptions (ticket) where ticket is not null;

create function public.reembed_begin_description(describer text, image_hash text, lease_seconds int default 120) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$ select reembed.begin_description(describer, image_hash, lease_seconds) $$;
create function public.reembed_end_description(ticket uuid, description text default null) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$ select reembed.end_description(ticket, description) $$;
comment on function public.reembed_begin_description(text, text, int) is 'For service_role: reembed.begin_description, which documents it.';
comment on function public.reembed_end_description(uuid, text) is 'For service_role: reembed.end_description, which documents it.';
revoke execute on function public.reembed_begin_description(text, text, int), public.reembed_end_description(uuid, text) from public, anon, authenticated;
grant execute on function public.reembed_begin_description(text, text, int), public.reembed_end_description(uuid, text) to service_role;

revoke execute on all functions in schema reembed from public;
