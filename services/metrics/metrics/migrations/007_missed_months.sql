-- A service that was away for months came back to a month without a partition,
-- and what was recorded before it was made went where it could not be made any
-- more, nor anything let go.

-- Months from `first` to `last` get a partition each, where they have none.
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
            -- So that nothing of the month comes while its samples are moved.
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
