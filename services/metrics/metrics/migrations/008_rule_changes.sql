-- A default rule that an account changed has its row here, under the default's id.
alter table rules drop constraint rules_pkey, add primary key (account, id);

-- Since when the condition of a rule that waits has held.
create table holding (
    account text not null,
    model text not null,
    metric text not null,
    rule text not null,
    since timestamptz not null,
    primary key (account, model, rule, metric)
);
create index on holding (account, rule);
