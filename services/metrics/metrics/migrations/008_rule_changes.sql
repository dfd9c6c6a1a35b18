-- An account's changes of a default rule have a row here, under the default's id.
alter table rules drop constraint rules_pkey, add primary key (account, id);

-- Since when a rule's condition has held while its minutes are not over yet.
create table holding (
    account text not null,
    model text not null,
    metric text not null,
    rule text not null,
    since timestamptz not null,
    primary key (account, model, rule, metric)
);
create index on holding (account, rule);
