-- Accounts' descriptions of their own metrics; recording, statistics, advice and alerts follow
-- them.
create table descriptions (
    account text not null,
    metric text not null,
    kind text not null,
    unit text,
    more_is_better boolean,
    primary key (account, metric)
);
