"""The search for the first error of a chain: halving, lazy probes, and what other chains tell."""

from __future__ import annotations

import pytest
from rollouts_cases import EIGHT, Book, book, ends_well, found, prefix

from ponder.learners.labels import contradiction, first_error, hard, soft
from ponder.learners.rollouts import StepRollouts
from ponder.testing import MazePolicy


def search(pages, **how):
    return found(StepRollouts(n=1, k=4, method="binary", **how), pages, ends_well)


def test_the_search_halves():
    pages = book(at1="1", at2="1", at3="1", at4="0100")
    [chain] = search(pages).chains
    assert list(pages.probes.items()) == [(prefix(4), 4), (prefix(6), 4), (prefix(5), 4)]
    assert first_error(chain, 4).labels == (1, 1, 1, 1, 0, 0, 0, 0)


def test_a_lazy_probe_stops_at_the_first_right_roll_out_and_labels_the_same():
    for lazy, spent in ((1, 2), (2, 2), (3, 3), (4, 4)):
        pages = book(at4="0100")
        [chain] = search(pages, lazy=lazy).chains
        assert dict(pages.probes) == {prefix(4): spent, prefix(6): 4, prefix(5): 4}
        assert first_error(chain, 4).labels == (1, 1, 1, 1, 0, 0, 0, 0)
        assert chain.lazy


def test_lazy_and_full_hard_labels_are_equal_draw_for_draw():
    for method in ("exhaustive", "binary"):
        full, lazy = (found(StepRollouts(n=5, k=6, method=method, reuse=False, lazy=lazy), MazePolicy(0.8, 8)) for lazy in (0, 2))
        assert [hard(one, 6).labels for one in full.chains] == [hard(one, 6).labels for one in lazy.chains]
        assert lazy.rollouts < full.rollouts


def test_verify_sees_a_recovery_behind_the_first_error_and_then_knows_less():
    recovers = {"at4": "1", "at6": "0001"}  # the halving looks at 4, 6, 7: the error is step 7, and all is well at first sight
    assert first_error(search(book(**recovers)).chains[0], 4).labels == (1, 1, 1, 1, 1, 1, 0, 0)
    missed = {"at4": "1", "at5": "0", "at6": "0", "at7": "1"}  # looks at 4, 6, 5: step 5; the probe behind it tells nothing yet
    [chain] = search(book(**missed), verify=True).chains
    assert first_error(chain, 4).labels == (1, 1, 1, 1, 0, 0, 0, 0)
    luck = {"at2": "0", "at4": "0", "at1": "1", "at3": "0100"}  # looks at 4, 2, 1: step 2; the probe at 3 is right
    pages = book(**luck)
    [chain] = search(pages, verify=True).chains
    assert dict(pages.probes) == {prefix(4): 4, prefix(2): 4, prefix(1): 4, prefix(3): 4}
    assert contradiction(chain, 4) == 2
    assert first_error(chain, 4).labels == (1, None, None, None, None, None, None, 0)


def test_verify_sees_that_nobody_solves_the_problem():
    pages = book()
    pages.pages[""] = (EIGHT, "off\n")
    plain, checked = search(pages), search(pages, verify=True)
    assert first_error(plain.chains[0], 4).labels == (0,) * 8
    assert first_error(checked.chains[0], 4).labels == (None,) * 7 + (0,)
    assert checked.rollouts - plain.rollouts == 4  # the root; the step behind the first error was looked at before


@pytest.mark.parametrize("reuse", [False, True])
def test_verify_does_not_ask_of_the_root_what_is_known(reuse):
    pages = book(at4="1")
    [chain] = search(pages, verify=True, reuse=reuse).chains
    assert "" not in pages.probes
    assert first_error(chain, 4).labels == (1, 1, 1, 1, 0, 0, 0, 0)


def test_a_right_chain_proves_the_root_to_the_others():
    pages = book()
    pages.pages[""] = (EIGHT, "end\n", "off\n")
    checked = found(StepRollouts(n=2, k=4, method="binary", verify=True), pages, ends_well)
    assert "" not in pages.probes
    assert first_error(checked.chains[0], 4).labels == (0,) * 8


def test_a_right_chain_proves_its_prefixes_to_the_others():
    pages = book()
    pages.pages[""] = (EIGHT, "1\n2\n3\n4\n5\nend\n")
    one = found(StepRollouts(n=2, k=4, method="binary"), pages, ends_well)
    assert list(pages.probes) == [prefix(6), prefix(5)]
    assert [first_error(chain, 4).labels for chain in one.chains] == [(1, 1, 1, 1, 0, 0, 0, 0), (1,) * 6]


def test_roll_outs_top_up_what_chains_have_told():
    """Three chains go through step 1, one of them right: k = 4 takes one roll-out more, of the same prefix."""
    pages = Book(
        {"": ("1\n2\nend\n", "1\n3\noff\n", "1\n4\noff\n"), "1\n": ("9\noff\n",), **{f"1\n{at}\n": ("off\n",) for at in "234"}}
    )
    one = found(StepRollouts(n=3, k=4), pages, ends_well)
    assert dict(pages.probes) == {"1\n": 1, "1\n2\n": 3, "1\n3\n": 3, "1\n4\n": 3}
    assert [soft(chain).labels for chain in one.chains] == [(0.25, 0.25, 1.0), (0.25, 0.0, 0.0), (0.25, 0.0, 0.0)]


def test_a_chain_whose_text_another_goes_on_from_keeps_its_verdict():
    pages = Book({"": ("1\n", "1\nend\n"), "1\n": ("off\n",)})
    for method in ("exhaustive", "binary"):
        one = found(StepRollouts(n=2, k=2, method=method), pages, ends_well)
        assert [chain.correct for chain in one.chains] == [False, True]
        assert first_error(one.chains[0], 2).labels == (0.0,)
