"""Exact counts and how they are shared."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.budget import (
    fill_levels,
    require_retention,
    require_tokens,
    split_by,
    split_evenly,
    token_budget,
)
from comfyui_aot.aot.tokens.video_tokens import Layout

VIDEO = Layout(4, (20, 20))
counts = st.lists(st.integers(0, 30), min_size=1, max_size=12)


def test_a_retention_is_rounded_to_whole_tokens():
    assert token_budget("Stage", 0.333, 0, VIDEO, 1, 400) == round(0.333 * 400)


def test_a_count_goes_before_a_retention():
    assert token_budget("Stage", 0.333, 17, VIDEO, 1, 400) == 17


@pytest.mark.parametrize(("retention", "tokens"), [(0.001, 0), (0.9, 0), (0, 300), (0, 3), (0, 0)])
def test_what_cannot_be_met_is_refused_with_a_range_that_works(retention, tokens):
    with pytest.raises(InputError, match=r"give 4 to 250 tokens, retention (.*) to (.*)\.") as error:
        token_budget("Stage", retention, tokens, VIDEO, 4, 250)
    low, high = (float(text) for text in str(error.value)[:-1].rsplit(" ", 3)[1::2])
    assert [token_budget("Stage", share, 0, VIDEO, 4, 250) for share in (low, high)] == [4, 250]


@pytest.mark.parametrize("retention", [0, -0.1, 1.1, float("nan")])
def test_a_retention_is_a_share(retention):
    with pytest.raises(InputError, match="above 0 and at most 1"):
        require_retention(retention)


def test_no_tokens_at_all_are_refused():
    with pytest.raises(InputError, match="1 or more"):
        require_tokens(0)


@given(total=st.integers(0, 500), parts=st.integers(1, 40))
def test_even_shares_differ_by_at_most_one(total, parts):
    shares = split_evenly(total, parts)
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


@given(weights=counts, data=st.data())
def test_shares_by_weight_are_whole_and_none_is_above_its_weight(weights, data):
    total = data.draw(st.integers(0, sum(weights)))
    shares = split_by(weights, total)
    assert sum(shares) == total
    assert all(0 <= share <= weight for share, weight in zip(shares, weights, strict=True))


@given(capacities=counts, data=st.data())
def test_vessels_fill_as_evenly_as_they_can(capacities, data):
    total = data.draw(st.integers(0, sum(capacities)))
    shares = fill_levels(capacities, total)
    assert sum(shares) == total
    assert all(share <= capacity for share, capacity in zip(shares, capacities, strict=True))
    open_ones = [share for share, capacity in zip(shares, capacities, strict=True) if share < capacity]
    assert max(shares) <= min(open_ones, default=max(shares)) + 1
