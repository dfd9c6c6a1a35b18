-- Days are read whole for each answer: uncompressed and beside their row, they are read in a quarter
-- of the time, for half as much space again. Rows that are there already stay as they are.
do $$
begin
    -- On TimescaleDB days are an aggregate, which has its own storage.
    if (select relkind from pg_class where oid = 'days'::regclass) = 'r' then
        alter table days alter hours set storage external;
        alter table days alter histogram set storage external;
        alter table days set (toast_tuple_target = 4080);
    end if;
end $$;
