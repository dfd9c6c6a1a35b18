from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from benchmarker import schedule

SIZES = st.lists(st.integers(1, 4096), min_size=1, max_size=8, unique=True)


@given(SIZES, st.integers(1, 3000), st.integers(0, 2**32 - 1), st.integers(1, 4097))
def test_every_size_gets_its_calls_in_blocks_that_fit_a_message(sizes, calls, seed, moments):
    plan = schedule.blocks(sizes, calls, seed, moments)
    given_out: Counter[int] = Counter()
    for block in plan:
        given_out[block.batch_size] += block.calls
        assert block.calls == 1 or block.calls * moments <= schedule.MAX_BLOCK_MOMENTS
        assert 1 <= block.calls <= schedule.MAX_BLOCK_CALLS
    assert given_out == dict.fromkeys(sizes, calls)
    assert len({(block.round, block.batch_size) for block in plan}) == len(plan)
    assert plan == schedule.blocks(sizes, calls, seed, moments)


def test_each_round_times_every_batch_size_in_random_order() -> None:
    plan = schedule.blocks([1, 2, 4, 8], 64, seed=0)
    rounds = [[b.batch_size for b in plan if b.round == n] for n in range(schedule.ROUNDS)]
    assert [block.round for block in plan] == sorted(block.round for block in plan)
    assert all(sorted(order) == [1, 2, 4, 8] for order in rounds)
    assert len(set(map(tuple, rounds))) > 1
