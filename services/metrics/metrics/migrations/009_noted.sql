-- `noted` counts events that the webhooks service has confirmed: 1 the alert, 2 the recovery as
-- well. Alerts raised before that service existed are not posted.
alter table alerts add column noted smallint not null default 2;
alter table alerts alter column noted set default 0;
create index alerts_unnoted on alerts (number)
    where noted < 1 or (noted < 2 and recovered_at is not null);
