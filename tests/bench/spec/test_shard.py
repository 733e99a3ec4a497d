"""Shares: together all runs once, alike in size, the same on every machine."""

import pytest
from equibench.bench.spec.shard import Shard
from equibench.bench.spec.suite import find_suite, plan, suite_names
from equibench.registry import UserError


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 64])
@pytest.mark.parametrize("runs", [0, 1, 3, 12, 64, 65])
def test_shares_are_a_partition_of_equal_parts_in_the_order_of_the_plan(count: int, runs: int) -> None:
    parts = [Shard(number, count).of(range(runs)) for number in range(1, count + 1)]
    assert [run for part in parts for run in part] == list(range(runs))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_models_of_a_seed_stay_together() -> None:
    specs = plan(find_suite("quickstart"))
    seeds = [{s.seed for s in Shard(number, 2).of(specs)} for number in (1, 2)]
    assert not seeds[0] & seeds[1] and "quickstart" in suite_names()


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "1", "1/2/3", "-1/4", "1 / 4", "a/b", "", "1/9999999", "٣/٤"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"as 2/4"):
        Shard.parse(text)


def test_a_share_is_read_as_it_is_written() -> None:
    assert str(Shard.parse("3/4")) == "3/4" and Shard.parse("3/4") == Shard(3, 4)
