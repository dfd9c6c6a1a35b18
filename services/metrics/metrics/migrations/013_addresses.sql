-- The address of a model on the Hub names the same model as its id. What was recorded under an
-- address is renamed, unless the same metric was recorded under the id too: both would have samples
-- of the same times.
create function model_id_of(model text) returns text
    language sql immutable
    return regexp_replace(
        model,
        '^(https://(huggingface|hf)\.co(:443)?/)?'
        '(?!(datasets|spaces|buckets|collections|papers|api)/)'
        '([a-z0-9_.-]+(/[a-z0-9_.-]+)?)(/tree/main)?/?$',
        '\4', 'i'
    );

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
update alerts set model = model_id_of(model)
where (model like '%://%' or model like '%/tree/%') and not exists (
    select from alerts as other
    where other.account = alerts.account and other.model = model_id_of(alerts.model)
        and other.rule = alerts.rule and other.metric is not distinct from alerts.metric
        and other.recovered_at is null and alerts.recovered_at is null
);
update rules set rule = jsonb_set(rule, '{modelId}', to_jsonb(model_id_of(rule ->> 'modelId')))
where rule ->> 'modelId' like '%://%' or rule ->> 'modelId' like '%/tree/%';
delete from holding where model like '%://%' or model like '%/tree/%';

drop function model_id_of(text);
