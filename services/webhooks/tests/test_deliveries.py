"""Deliveries: signed, retried until they arrive, and one attempt at a time."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography.fernet import Fernet
from standardwebhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError
from webhook_receiver import KEY, SEALING, Receiver, Someone, new_someone

from common.contracts.webhooks import (
    DeliveriesOfWebhook,
    Delivery,
    DeliveryName,
    WebhookChangeRequest,
)
from common.encryption import Encryption
from common.errors import InvalidRequest, NotFound
from common.postgres import Database
from webhooks import rotation, schedule
from webhooks.post import Poster
from webhooks.sealing import Sealing
from webhooks.sender import Sender


async def deliveries_of(someone: Someone, webhook: str) -> list[Delivery]:
    request = DeliveriesOfWebhook(id=webhook)
    return (await someone.deliveries.newest(someone.account, request)).deliveries


async def stored(database: Database, someone: Someone) -> int:
    """Return the number of stored events of an account."""
    async with database.connection() as connection:
        cursor = await connection.execute(
            "select count(*) from occurrences where account = %s", [someone.account]
        )
        [(count,)] = await cursor.fetchall()
    return int(count)


async def until_last(someone: Someone, webhook: str, true: Callable[[Delivery], bool]) -> Delivery:
    """Wait until the newest delivery meets a condition."""
    while not true((await deliveries_of(someone, webhook))[0]):
        await asyncio.sleep(0.02)
    return (await deliveries_of(someone, webhook))[0]


async def test_an_event_is_posted_with_a_signature_that_the_receiver_can_check(
    someone: Someone, receiver: Receiver, sender: Sender
) -> None:
    webhook = await someone.add(receiver.url)
    assert webhook.secret
    happened = await someone.happen(modelId="me/model")
    sender.sending.wake()
    (post,) = await receiver.wait_for(1)
    event = Verifier(webhook.secret).verify(post.body, post.headers)
    assert event == {
        "type": "alert.raised",
        "timestamp": "2026-01-02T03:04:05Z",
        "data": {"modelId": "me/model"},
    }
    assert post.headers["webhook-id"] == happened.id
    delivery = await until_last(someone, webhook.id, lambda d: d.state == "succeeded")
    assert [attempt.status for attempt in delivery.attempts] == [204]
    with pytest.raises(WebhookVerificationError):
        Verifier(webhook.secret).verify(post.body.replace("me/", "my/"), post.headers)


async def test_an_event_published_twice_is_posted_once(
    someone: Someone, receiver: Receiver, sender: Sender
) -> None:
    webhook = await someone.add(receiver.url)
    for _ in range(2):
        await someone.happen(id="msg_the_same" + someone.account)
    await someone.happen(id="msg_another" + someone.account)
    sender.sending.wake()
    await receiver.wait_for(2)
    await until_last(someone, webhook.id, lambda d: d.state == "succeeded")
    assert len({post.headers["webhook-id"] for post in receiver.posts}) == len(receiver.posts) == 2


async def test_only_events_of_the_requested_types_are_posted(
    someone: Someone, receiver: Receiver
) -> None:
    webhook = await someone.add(receiver.url, "benchmark.finished")
    await someone.happen("alert.raised")
    await someone.happen("benchmark.finished")
    assert [d.type for d in await deliveries_of(someone, webhook.id)] == ["benchmark.finished"]


async def test_a_failed_attempt_is_retried_after_a_back_off_with_the_same_id(
    someone: Someone, receiver: Receiver, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "PAUSES_S", (0.01, 0.01))
    receiver.status = 500
    webhook = await someone.add(receiver.url)
    happened = await someone.happen()
    sender.sending.wake()
    posts = await receiver.wait_for(3)
    assert {post.headers["webhook-id"] for post in posts} == {happened.id}
    delivery = await until_last(someone, webhook.id, lambda d: d.state == "failed")
    assert [attempt.error for attempt in delivery.attempts] == ["it answered 500"] * 3
    # No delivery has succeeded: the webhook is turned off, and says why.
    (stored,) = (await someone.registry.all_of(someone.account)).webhooks
    assert not stored.enabled
    assert "it answered 500" in str(stored.disabled_reason)


async def test_a_retry_waits_as_long_as_the_receivers_retry_after(
    someone: Someone, receiver: Receiver, sender: Sender
) -> None:
    receiver.status, receiver.headers = 503, {"Retry-After": "3600"}
    webhook = await someone.add(receiver.url)
    await someone.happen()
    sender.sending.wake()
    delivery = await until_last(someone, webhook.id, lambda d: bool(d.attempts))
    assert delivery.next_attempt_at
    pause = delivery.next_attempt_at - delivery.attempts[0].at
    assert timedelta(minutes=59) < pause < timedelta(minutes=70)


async def test_a_receiver_that_answers_410_gets_no_more_events(
    someone: Someone, receiver: Receiver, sender: Sender
) -> None:
    receiver.status = 410
    webhook = await someone.add(receiver.url)
    await someone.happen()
    sender.sending.wake()
    await until_last(someone, webhook.id, lambda d: d.state == "failed")
    (stored,) = (await someone.registry.all_of(someone.account)).webhooks
    assert (stored.enabled, "410" in str(stored.disabled_reason)) == (False, True)


async def test_a_redirect_is_not_followed(
    someone: Someone, receiver: Receiver, sender: Sender
) -> None:
    receiver.status, receiver.headers = 307, {"Location": receiver.url}
    webhook = await someone.add(receiver.url)
    await someone.happen()
    sender.sending.wake()
    delivery = await until_last(someone, webhook.id, lambda d: bool(d.attempts))
    assert "redirects are not followed" in str(delivery.attempts[0].error)
    assert len(receiver.posts) == 1


async def test_a_delivery_is_repeated_on_request(
    someone: Someone, receiver: Receiver, sender: Sender
) -> None:
    webhook = await someone.add(receiver.url)
    happened = await someone.happen()
    sender.sending.wake()
    await until_last(someone, webhook.id, lambda d: d.state == "succeeded")
    name = DeliveryName(id=webhook.id, delivery=happened.id)
    again = await someone.deliveries.redeliver(someone.account, name)
    assert again.state == "pending"
    sender.sending.wake()
    delivery = await until_last(someone, webhook.id, lambda d: len(d.attempts) == 2)
    assert delivery.state == "succeeded"
    assert len({post.headers["webhook-id"] for post in receiver.posts}) == 1


async def test_a_delivery_of_a_dead_replica_is_attempted_by_another(
    someone: Someone, receiver: Receiver, sender: Sender, database: Database
) -> None:
    await someone.add(receiver.url)
    await someone.happen()
    (parcel,) = [p for p in await someone.deliveries.take(100) if p.url == receiver.url]
    assert [p for p in await someone.deliveries.take(100) if p.url == receiver.url] == []
    async with database.connection() as connection:  # its lease expires
        await connection.execute(
            "update deliveries set taken_until = now() - interval '1 s' where number = %s",
            [parcel.number],
        )
    sender.sending.wake()
    assert len(await receiver.wait_for(1)) == 1


async def test_two_replicas_never_attempt_the_same_delivery_at_once(
    someone: Someone, receiver: Receiver
) -> None:
    await someone.add(receiver.url)
    for _ in range(4):
        await someone.happen()
    batches = await asyncio.gather(*(someone.deliveries.take(100) for _ in range(4)))
    numbers = [p.number for parcels in batches for p in parcels if p.url == receiver.url]
    assert len(numbers) == len(set(numbers)) == 4


async def test_many_events_of_one_webhook_do_not_delay_another_webhook(
    database: Database, receiver: Receiver
) -> None:
    busy, quiet = new_someone(database, max_waiting=50), new_someone(database)
    await busy.add(receiver.url + "/busy")
    await quiet.add(receiver.url + "/quiet")
    for _ in range(40):
        await busy.happen()
    await quiet.happen()
    urls = [parcel.url for parcel in await busy.deliveries.take(100)]
    assert urls.count(receiver.url + "/quiet") == 1
    assert urls.count(receiver.url + "/busy") == 4  # no second delivery of one under way


async def test_the_number_of_waiting_deliveries_is_bounded(
    database: Database, receiver: Receiver
) -> None:
    someone = new_someone(database, max_waiting=5)
    webhook = await someone.add(receiver.url)
    for _ in range(8):
        await someone.happen()
    assert len(await deliveries_of(someone, webhook.id)) == 5
    assert await stored(database, someone) == 5


async def test_an_event_without_a_subscribed_webhook_is_not_stored(
    someone: Someone, receiver: Receiver, database: Database
) -> None:
    await someone.happen()
    await someone.add(receiver.url, "benchmark.finished")
    await someone.happen()
    assert await stored(database, someone) == 0


async def test_events_are_signed_with_both_the_new_and_the_former_secret(
    someone: Someone, receiver: Receiver, sender: Sender
) -> None:
    first = await someone.add(receiver.url)
    second = await someone.registry.rotate_secret(someone.account, first.id)
    await someone.happen()
    sender.sending.wake()
    (post,) = await receiver.wait_for(1)
    test = await sender.deliveries.parcel_for_test(someone.account, first.id)
    assert list(test.secrets) == [second.secret, first.secret]
    for secret in (first.secret, second.secret):
        assert secret
        Verifier(secret).verify(post.body, post.headers)
    assert first.secret != second.secret


async def secrets_in(database: Database, webhook: str) -> list[str]:
    async with database.connection() as connection:
        cursor = await connection.execute(
            "select secret, former_secret from webhooks where id = %s", [webhook]
        )
        [row] = await cursor.fetchall()
    return [secret for secret in row if secret]


async def test_stored_secrets_are_encrypted_and_can_be_reencrypted_with_another_key(
    someone: Someone,
    receiver: Receiver,
    database: Database,
    poster: Poster,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    webhook = await someone.add(receiver.url)
    rotated = await someone.registry.rotate_secret(someone.account, webhook.id)
    assert not any(secret.startswith("whsec_") for secret in await secrets_in(database, webhook.id))
    async with database.connection() as connection:
        await connection.execute(
            "update webhooks set secret = %s, former_secret = %s where id = %s",
            [rotated.secret, webhook.secret, webhook.id],
        )
    await SEALING.seal_stored(database)
    assert not any(secret.startswith("whsec_") for secret in await secrets_in(database, webhook.id))
    parcel = await someone.deliveries.parcel_for_test(someone.account, webhook.id)
    assert list(parcel.secrets) == [rotated.secret, webhook.secret]
    # While one replica has the keys and another not yet, a former secret alone may be plain.
    async with database.connection() as connection:
        await connection.execute(
            "update webhooks set former_secret = %s where id = %s", [webhook.secret, webhook.id]
        )
    # An operator's command encrypts them anew, so that the old key can be dropped.
    new = Fernet.generate_key().decode()
    monkeypatch.setenv("DATABASE_URL", url)
    for keys, status in ((new, 1), (f"{new},{KEY}", 0), (new, 0)):
        monkeypatch.setenv("ENCRYPTION_KEYS", keys)
        assert await rotation.main() == status
    renewed = Sealing(Encryption([new])).open(await secrets_in(database, webhook.id), webhook.id)
    assert renewed == [rotated.secret, webhook.secret]
    # With another key, nothing is posted unsigned.
    lost = Sealing(Encryption([Fernet.generate_key().decode()]))
    assert lost.open(await secrets_in(database, webhook.id), webhook.id) == []
    posted = await poster.post(receiver.url, "msg_1", "{}", [])
    assert "cannot be read" in str(posted.attempt.error)
    assert receiver.posts == []


async def test_disabling_a_webhook_fails_its_waiting_deliveries(
    someone: Someone, receiver: Receiver
) -> None:
    webhook = await someone.add(receiver.url)
    await someone.happen()
    for enabled in (False, True):
        request = WebhookChangeRequest(id=webhook.id, changes={"enabled": enabled})
        changed = await someone.registry.change(someone.account, request)
        assert changed.enabled is enabled
        assert changed.secret is None
    assert [d.state for d in await deliveries_of(someone, webhook.id)] == ["failed"]
    assert [p for p in await someone.deliveries.take(100) if p.url == receiver.url] == []


async def test_the_number_of_webhooks_of_an_account_is_limited(
    someone: Someone, receiver: Receiver
) -> None:
    for _ in range(3):
        await someone.add(receiver.url)
    with pytest.raises(InvalidRequest, match="an account may have 3 webhooks"):
        await someone.add(receiver.url)


async def test_a_webhook_is_hidden_from_other_accounts_and_unchanged_by_them(
    database: Database, receiver: Receiver
) -> None:
    owner, other = new_someone(database), new_someone(database)
    webhook = await owner.add(receiver.url)
    happened = await owner.happen()
    name = DeliveryName(id=webhook.id, delivery=happened.id)
    attempts = [
        other.registry.change(
            other.account, WebhookChangeRequest(id=webhook.id, changes={"enabled": False})
        ),
        other.registry.rotate_secret(other.account, webhook.id),
        other.registry.remove(other.account, webhook.id),
        other.deliveries.newest(other.account, DeliveriesOfWebhook(id=webhook.id)),
        other.deliveries.redeliver(other.account, name),
        other.deliveries.parcel_for_test(other.account, webhook.id),
    ]
    for attempt in attempts:
        with pytest.raises(NotFound):
            await attempt
    assert (await other.registry.all_of(other.account)).webhooks == []


async def test_an_attempt_on_a_receiver_that_never_answers_times_out(
    poster: Poster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        writer.close()

    monkeypatch.setattr(poster.http, "_timeout", poster.http.timeout.__class__(total=0.2))
    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    host, port = silent.sockets[0].getsockname()
    posted = await poster.post(f"http://{host}:{port}/", "msg_1", "{}", ["whsec_c2VjcmV0"])
    silent.close()
    assert "no answer within" in str(posted.attempt.error)


def test_the_scheduled_attempts_span_more_than_a_day() -> None:
    pauses = [schedule.pause_s(n) for n in range(1, len(schedule.PAUSES_S) + 2)]
    assert pauses[-1] is None
    assert sum(pause for pause in pauses if pause) > 24 * 3600
    assert json.dumps(pauses[0]) != json.dumps(
        schedule.pause_s(1)
    )  # so that they are not retried together
