-- The address of a model on the Hub names the same model as its id. What was recorded under an
-- address is renamed to the id.
create function model_id_of(model text) returns text
    language sql immutable
    return case
        when model ~* '^https://(huggingface|hf)\.co(:443)?/'
            or model ~ '^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+/tree/main/?$'
        then coalesce(
            substring(
                regexp_replace(model, '^https://[^/]*/', '', 'i')
                from '^(?!(?:api|blog|buckets|collections|datasets|docs|models|organizations|papers'
                    '|posts|settings|spaces|tasks)(?:/|$))'
                    '([A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)?)(?:/tree/main)?/?$'
            ),
            model
        )
        else model
    end;

update series set model = model_id_of(model)
from (
    select distinct on (account, model_id_of(model), metric) id from series
    where model like '%://%' or model like '%/tree/%'
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
        where (model like '%://%' or model like '%/tree/%') and model <> model_id_of(model)
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
update alerts set model = model_id_of(model) where model like '%://%' or model like '%/tree/%';
update rules set rule = jsonb_set(rule, '{modelId}', to_jsonb(model_id_of(rule ->> 'modelId')))
where rule ->> 'modelId' like '%://%' or rule ->> 'modelId' like '%/tree/%';
delete from holding where model like '%://%' or model like '%/tree/%';

drop function model_id_of(text);
