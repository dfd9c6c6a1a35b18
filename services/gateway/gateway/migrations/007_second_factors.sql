-- The secret of an account's authenticator app, encrypted; `since` is null until its first code.
create table second_factors (
    account_id text primary key references accounts on delete cascade,
    secret bytea not null,
    since timestamptz,
    -- The time step of the last accepted code: codes of it and of earlier steps are refused.
    last_step bigint not null default 0
);

create table recovery_codes (
    -- SHA-256 of account and code; the code itself is shown once and never stored.
    hash bytea primary key,
    account_id text not null references accounts on delete cascade
);
create index recovery_codes_account on recovery_codes (account_id);
