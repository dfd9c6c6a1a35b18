-- Samples recorded more than a day after their time wait here for a sweep that merges them into
-- `samples`: inserting into compressed old chunks is slow, and their rollups have to be computed
-- again.
create table staged (
    series integer not null,
    at timestamptz not null,
    value double precision not null,
    arrival bigint not null,
    primary key (series, at)
);

-- All samples, staged or not; conditions are pushed down into both.
create view recorded as
    select series, at, value, arrival from samples
    union all select series, at, value, arrival from staged;
alter function create_storage() rename to create_storage_without_view;
create function create_storage() returns void
    language plpgsql as $$
begin
    perform create_storage_without_view();
    create view recorded as
        select series, at, value, arrival from samples
        union all select series, at, value, arrival from staged;
end $$;

-- direct: some samples of the day were late, so it is read from `samples`, not from its rollups.
-- staged: number of the day's staged samples.
alter table stale
    add column direct boolean not null default true,
    add column staged integer not null default 0;

-- Number of samples that each account has stored, and of those that are staged.
create table usage (
    account text primary key,
    samples bigint not null default 0,
    staged bigint not null default 0
);
insert into usage (account, samples)
select account, count(*) from samples join series on id = series group by account;

-- Merges the staged samples of some days of some series; existing samples stay as they are.
create function merge_staged(series_ids integer[], days timestamptz[]) returns void
    language sql as $$
    with moved as (
        delete from staged using unnest(series_ids, days) as s(id, day)
        where staged.series = s.id and at >= day and at < day + interval '24 hours'
        returning staged.series, at, value, arrival
    ), merged as (
        insert into samples (series, at, value, arrival)
        select series, at, value, arrival from moved order by series, at
        on conflict do nothing
    ), counted as (
        select account, count(*) as count from moved join series on id = moved.series
        group by account
    )
    update usage set staged = greatest(staged - counted.count, 0)
    from counted where usage.account = counted.account
$$;
