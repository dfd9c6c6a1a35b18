-- In which order samples arrived, so that whoever was away can be told what it
-- missed, whatever times the samples themselves have.

-- Microseconds since 2000 by the clock of the writer, times 256, and the
-- writer. A writer commits one transaction after the other, so its arrivals
-- are in the order of its commits; two writers' are not, and need not be:
-- whoever listens knows how far it has heard each of them. 0: from before.
alter table samples add column arrival bigint not null default 0;

alter function create_storage() rename to create_storage_without_arrivals;
create function create_storage() returns void
    language plpgsql as $$
begin
    perform create_storage_without_arrivals();
    alter table samples add column arrival bigint not null default 0;
end $$;

-- No two writers that live at the same time have the same number.
create sequence writers minvalue 1 maxvalue 255 cycle;

-- What arrives is looked for among samples of its time; what is more than a
-- minute older than that is looked for by these.
create table late (
    series integer not null,
    arrival bigint not null,
    first timestamptz not null,
    last timestamptz not null,
    primary key (series, arrival)
);
