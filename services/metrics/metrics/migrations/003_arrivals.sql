-- The order in which samples arrived, so that a listener that was away can receive the missed ones,
-- whatever the samples' own times are.

-- Microseconds since 2000 by the writer's clock, times 256, plus the writer's number. A writer
-- commits one transaction after the other, so its arrivals are in the order of its commits.
-- Arrivals of two writers are not, and need not be: a listener knows its position for each writer.
-- 0: recorded before arrivals existed.
alter table samples add column arrival bigint not null default 0;

alter function create_storage() rename to create_storage_without_arrivals;
create function create_storage() returns void
    language plpgsql as $$
begin
    perform create_storage_without_arrivals();
    alter table samples add column arrival bigint not null default 0;
end $$;

-- No two live writers have the same number.
create sequence writers minvalue 1 maxvalue 255 cycle;

-- New arrivals are searched among samples with recent times; those of samples over a minute older
-- are found here.
create table late (
    series integer not null,
    arrival bigint not null,
    first timestamptz not null,
    last timestamptz not null,
    primary key (series, arrival)
);
