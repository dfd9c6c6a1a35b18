-- If the service had not run for months, the current month had no partition; samples recorded
-- before it was created went into the default partition, which then prevented its creation and
-- their expiry.

-- Creates the missing partitions for the months from `first` to `last`.
create or replace function create_partitions(first timestamptz, last timestamptz) returns void
    language plpgsql as $$
declare
    month timestamp := date_trunc('month', first at time zone 'UTC');
    name text;
    since timestamptz;
    until timestamptz;
begin
    while month <= last at time zone 'UTC' loop
        name := 'samples_' || to_char(month, 'YYYYMM');
        since := month at time zone 'UTC';
        until := (month + interval '1 month') at time zone 'UTC';
        if to_regclass(name) is null then
            -- Keeps new samples of the month out while its samples are moved.
            lock table samples_older in access exclusive mode;
            execute format(
                'create table %I (like samples_older including defaults including indexes)', name
            );
            execute format(
                'with moved as (delete from samples_older where at >= %L and at < %L returning *)'
                ' insert into %I select * from moved', since, until, name
            );
            execute format(
                'alter table samples attach partition %I for values from (%L) to (%L)',
                name, since, until
            );
        end if;
        month := month + interval '1 month';
    end loop;
end $$;
