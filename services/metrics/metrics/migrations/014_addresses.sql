-- Name models as `common.contracts.address.model_id_of` does: by their id, whatever address they were
-- recorded under, and without blanks around the name.
create function model_id_of(model text) returns text
    language plpgsql immutable
    as $$
declare
    -- Blanks at the ends of a name that Python and Rust strip.
    name text := btrim(model, E' \t\n\x0b\f\r\u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005'
        '\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000');
    site constant text := '^https://(huggingface|hf)\.co(:443)?(?=[/?#]|$)';
    path text;
    id text;
    revision text := 'main';
    parts text[];
begin
    if name = '' then
        return model;
    elsif name !~ '://|/tree/|/$' or name !~ '^[!-\[\]-~]+$' or length(name) > 512 then
        return name;
    elsif name ~* site then
        path := regexp_replace(regexp_replace(name, site, '', 'i'), '[?#].*$', '');
        path := btrim(regexp_replace(path, '/+', '/', 'g'), '/');
    elsif position(':' in name) > 0 then
        return name;
    else
        path := rtrim(name, '/');
    end if;
    parts := coalesce(
        regexp_match(path, '^([^/]+/[^/]+)/tree/([^/]+)$'),
        regexp_match(path, '^([^/]+)/tree/([^/]+)$'),
        array[path, revision]
    );
    id := parts[1];
    revision := regexp_replace(parts[2], '%2f', '/', 'gi');
    if lower(split_part(id, '/', 1)) in ('huggingface.co', 'hf.co')
        or split_part(id, '/', 1) in ('datasets', 'spaces', 'buckets', 'collections', 'papers',
            'organizations', 'blog', 'posts', 'docs', 'tasks', 'models', 'settings', 'api')
        or id ~ '--|\.\.|\.git$'
        or id !~ ('^([A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?/)?'
            '[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?$')
        or revision ~ '\.\.|//|/\.|\.lock(/|$)|[./]$'
        or revision !~ '^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$'
    then
        return name;
    elsif revision = 'main' then
        return id;
    end if;
    return id || '/tree/' || replace(revision, '/', '%2F');
end $$;

update series set model = model_id_of(model)
from (
    select distinct on (account, model_id_of(model), metric) id from series
    where model <> model_id_of(model)
    order by account, model_id_of(model), metric, id
) as first
where series.id = first.id and not exists (
    select from series as other
    where other.account = series.account and other.model = model_id_of(series.model)
        and other.metric = series.metric
);
-- If the same metric was recorded under the id too, both may have samples of the same times. Its
-- series under an address gets a name that requests can have: `<id>@address`, with a number if that
-- is in use.
do $$
declare
    address record;
    free text;
    number integer;
begin
    for address in
        select distinct account, model, model_id_of(model) as id from series
        where model <> model_id_of(model)
        order by account, model
    loop
        free := address.id || '@address';
        number := 1;
        while exists (select from series where account = address.account and model = free) loop
            number := number + 1;
            free := address.id || '@address-' || number;
        end loop;
        update series set model = free where account = address.account and model = address.model;
    end loop;
end $$;
-- At most one alert of a rule, model and metric is open: the id's own, or else the first.
update alerts set
    recovered_at = clock_timestamp(),
    recovery = model || ': another alert of ' || model_id_of(model) || ' goes on'
from (
    select number, row_number() over (
        partition by account, model_id_of(model), rule, coalesce(metric, '')
        order by model <> model_id_of(model), number
    ) as place
    from alerts where recovered_at is null
) as open
where alerts.number = open.number and place > 1;
update alerts set model = model_id_of(model) where model <> model_id_of(model);
update rules set rule = jsonb_set(rule, '{modelId}', to_jsonb(model_id_of(rule ->> 'modelId')))
where rule ->> 'modelId' <> model_id_of(rule ->> 'modelId');
delete from holding where model <> model_id_of(model);

drop function model_id_of(text);
