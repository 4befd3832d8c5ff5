"""A policy card against every fixed strategy, on lab problems of mixed difficulty: chosen on the train split, judged on the test split.

`make evidence NAME=tune`, some twenty minutes on two cores; it is two studies, and can be stopped and started again. The mix, the budgets and the
rule by which one of them is claimed are fixed beforehand: the least budget at which the card, cross-validated on the train split, is as accurate
as best-of-64 is there.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evidence.common import DOCS, ROOT, Claim, completed, insert, ratio, save
from ponder.cli.candidates import ORDERS
from ponder.cli.ledger import Purse
from ponder.cli.pools import guides_of, opened
from ponder.cli.runner import parse_strategy
from ponder.cli.space import read as read_space
from ponder.cli.study import Study, check, read
from ponder.cli.tune import tuned
from ponder.scaling import allocate
from ponder.scaling.bootstrap import mean_intervals, paired_difference
from ponder.scaling.card import Card
from ponder.scaling.card import write as write_card
from ponder.scaling.figure import Series, curve_figure
from ponder.store import Journal, RunRecord, StudyStore
from ponder.types import Message, chain_digest

BUDGETS = (150, 300, 500, 750, 1000, 1500, 2500)
SPEND = 1_000_000  # new tokens that searches may take at most; they take less
CARD = "docs/evidence/tune_card.toml"
PRM = "reward_model(path='lab/prm')"
BEST, VOTE = f"best_of_n(n=64, verifier={PRM})", f"weighted_vote(n=64, verifier={PRM})"
FAMILIES = {  # of the fixed strategies that are drawn, by a pattern that their specs match
    "majority": r"self_consistency\(n=\d+\)",
    "best-of-n": rf"best_of_n\(n=\d+, verifier={re.escape(PRM)}\)",
    "best-of-n, confidence": r"best_of_n\(n=\d+, verifier=confidence\(\)\)",
    "weighted vote": rf"weighted_vote\(n=\d+, verifier={re.escape(PRM)}\)",
    "adaptive vote": r"adaptive_consistency\(n=64, .*batch=1\)",
    "best-of-64, stopped": rf"rejection\(n=64, verifier={re.escape(PRM)}, .*batch=1, .*",
}


@dataclass(frozen=True, slots=True)
class Result:
    """A strategy on the test problems: accuracy and tokens by problem, averaged over seeds."""

    spec: str
    correct_P: np.ndarray
    tokens_P: np.ndarray
    chain_P: np.ndarray
    seeds: int

    @property
    def tokens(self) -> float:
        """Mean tokens a question."""
        return float(self.tokens_P.mean())


def test_study(strategies: Sequence[str]) -> Study:
    """The mix of the train study, on other problems and three seeds."""
    body = {
        "name": "tune-test",
        "tasks": ["countdown(n=150)", "chain(n=150)"],
        "policies": ["lab"],
        "strategies": list(dict.fromkeys([BEST, "weighted_vote(n=64, verifier=confidence)", VOTE, *strategies])),
        "slice": 64,
        "seeds": [0, 1, 2],
    }
    return check(body, "tune-test")


def finished(study: Study) -> list[RunRecord]:
    """Run a study in `studies/`, or go on with it; its runs."""
    with completed(study, "make evidence NAME=tune") as (journal, _):
        return StudyStore(journal).runs()


def results(runs: Sequence[RunRecord], specs: Sequence[str]) -> dict[str, Result]:
    """By spec as given."""
    problems = sorted({(json.loads(run.cell)["task"], run.problem) for run in runs})
    order, seeds = {key: at for at, key in enumerate(problems)}, len({json.loads(run.cell)["seed"] for run in runs})
    found = {}
    for spec in specs:
        strategy = parse_strategy(spec)
        mine = {(run.problem, run.cell): run for run in runs if run.strategy == repr(strategy)}
        if len(mine) != len(problems) * seeds:
            raise SystemExit(f"{spec}: {len(mine)} of {len(problems) * seeds} runs are there")
        correct, tokens = np.zeros(len(problems)), np.zeros(len(problems))
        for run in mine.values():
            at = order[json.loads(run.cell)["task"], run.problem]
            correct[at] += run.correct / seeds
            tokens[at] += run.spent.usage.tokens / seeds
        chain = np.array([task == "chain" for task, _ in problems])
        found[spec] = Result(spec, correct, tokens, chain, seeds)
    return found


def ledger(file: Path, slice_: int) -> tuple[int, int]:
    """Tokens in a bank, and those of them that best-of-n on the slice put there: completion, and positions read, each prefix once, as runs charge them."""
    with Journal(file, hold=False) as journal:
        scored = {
            (str(v), str(c).split("/")[0]): int(str(n)) for v, c, n in journal.read("SELECT verifier, chain, scored FROM scores")
        }
        bodies = {str(digest): json.loads(str(body)) for digest, body in journal.read("SELECT digest, body FROM prefixes")}
        rows = journal.read("SELECT chain, sampling, idx, text, completion FROM samples JOIN pools ON pools.id = samples.pool")
    above: dict[str, str] = {}
    written, of_slice, slices = 0, 0, set[str]()
    for parent, sampling, index, text, completion in rows:
        body = bodies[str(parent)]
        child = chain_digest(tuple(Message(m["role"], tuple(m["content"])) for m in body["messages"]), body["text"] + str(text))
        if child != parent:
            above[child] = str(parent)
        written += int(str(completion))
        if not body["text"] and "stop=" not in str(sampling) and int(str(index)) < slice_:
            of_slice += int(str(completion))
            slices.add(child)
    for (verifier, digest), positions in scored.items():
        at = above.get(digest)
        while at is not None and (verifier, at) not in scored:
            at = above.get(at)
        written += positions - scored.get((verifier, at or ""), 0)
        of_slice += positions if digest in slices else 0
    return written, of_slice


def hindsight(folder: Path, train: Study) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Every fixed strategy of whole samples on the test problems: specs, accuracies P x C and tokens C."""
    space = read_space(None, [parse_strategy(spec) for spec in train.expanded], train.slice)

    async def pools():  # noqa: ANN202  as `Shop.slices`
        async with opened(folder, space.guides, [], Purse(limit=0), {}) as shop:
            return await shop.slices(0, guides_of(shop, len(space.guides)))

    taken = asyncio.run(pools()).shuffled(ORDERS, seed=1)
    made = [allocate.whole(taken, played) for played in space.whole(taken)]
    table = allocate.table(taken, made, 0, "")
    _, place = np.unique(taken.problem_R, return_inverse=True)
    right_P_C = np.stack([np.bincount(place, column) / np.bincount(place) for column in table.right_R_C.T], axis=1)
    return [one.spec for one in made], right_P_C, table.tokens_R_C.mean(axis=0, dtype=np.float64)


def claimed(card: Card, target: float) -> int:
    """The least budget at which the card is expected to be as accurate as `target`; its largest where none is."""
    return next((e.budget for e in card.expected if e.accuracy.value >= target), card.budgets[-1])


def difference(id_: str, text: str, a: Result, b: Result, target: str | None = None, *, above: bool = False) -> Claim:
    """Accuracy of a over that of b, paired over problems. above: the interval must lie above 0; otherwise the difference must not be below."""
    gain = paired_difference(a.correct_P, b.correct_P, seed=0, resamples=2000)
    holds = (gain.low > 0 if above else gain.value >= 0) if target else None
    return Claim(id_, text, gain.value, gain.low, gain.high, target, holds, len(a.correct_P), a.seeds)


def fewer(id_: str, text: str, a: Result, b: Result, target: float | None = None) -> Claim:
    """Tokens of b over those of a, which must be as accurate if a target is given."""
    saved = ratio(b.tokens_P, a.tokens_P)
    holds = bool(saved.value >= target and a.correct_P.mean() >= b.correct_P.mean()) if target else None
    said = f">= {target:g}, at no less accuracy" if target else None
    return Claim(id_, text, saved.value, saved.low, saved.high, said, holds, len(a.correct_P), a.seeds)


def claims(card: Card, found: dict[str, Result], single: str, target: float, train_tokens: float) -> list[Claim]:
    """Saving over best-of-64 and the strongest use of 64 samples; accuracy over the best fixed strategies that training could choose."""
    budget = claimed(card, target)
    auto, best, vote = found[spec_of(budget)], found[BEST], found[VOTE]
    fixed = next(e.fixed for e in card.expected if e.budget == budget)
    eighth = max(b for b in card.budgets if b <= train_tokens / 8)
    name = f"auto at {budget} tokens"
    made = [
        fewer("saving", f"tokens of best-of-64 over those of {name}, pilots included", auto, best, 4.0),
        difference("saving-accuracy", f"accuracy of {name} over best-of-64", auto, best, ">= 0"),
        fewer("eightfold", f"tokens of best-of-64 over those of auto at {eighth}", found[spec_of(eighth)], best, 8.0),
        difference("eightfold-accuracy", f"accuracy of auto at {eighth} tokens over best-of-64", found[spec_of(eighth)], best, ">= 0"),
        difference("over-fixed", f"accuracy of {name} over `{fixed}`, the best fixed at that budget in training", auto, found[fixed], "> 0", above=True),
        fewer("over-fixed-tokens", f"tokens of `{fixed}` over those of {name}", auto, found[fixed]),
        fewer("saving-vote", f"tokens of `{VOTE}`, a better use of 64 samples, over those of {name}", auto, vote),
        difference("saving-vote-accuracy", f"accuracy of {name} over `{VOTE}`", auto, vote),
    ]  # fmt: skip
    largest = found[spec_of(card.budgets[-1])]
    text = f"`{single}`, the most accurate fixed strategy of all in training"
    made += [
        fewer("over-best-tokens", f"tokens of {text}, over those of auto at {card.budgets[-1]}", largest, found[single]),
        difference("over-best", f"accuracy of auto at {card.budgets[-1]} tokens over {text}", largest, found[single]),
    ]
    for task, mine in (("chain", auto.chain_P), ("countdown", ~auto.chain_P)):
        one = paired_difference(auto.correct_P[mine], best.correct_P[mine], seed=0, resamples=2000)
        made.append(Claim(f"{task}-accuracy", f"accuracy of {name} over best-of-64 on {task} alone", one.value, one.low, one.high, None, None, int(mine.sum()), auto.seeds))  # fmt: skip
    for e in card.expected:
        [at] = mean_intervals(found[spec_of(e.budget)].correct_P[:, None], seed=0)
        gap = at.value - e.accuracy.value
        made.append(Claim(f"promise-{e.budget}", f"accuracy of auto at {e.budget} tokens over what its card promised, {e.accuracy.value:.3f}", gap, at.low - e.accuracy.value, at.high - e.accuracy.value, "interval not below 0", bool(at.high >= e.accuracy.value), len(found[BEST].correct_P), 3))  # fmt: skip
    return made


def spec_of(budget: int) -> str:
    """`auto` at one budget of the card."""
    return f"auto(card={CARD!r}, budget={budget})"


def explored(card: Card, slice_: int, file: Path) -> list[Claim]:
    """What tuning cost against the largest single configuration, both as they stand in the bank."""
    total, single = ledger(file, slice_)
    problems, configurations = dict(card.measured)["problems"], dict(card.measured)["candidates"]
    times = total / single
    text = f"all tokens in the bank after tuning ({total:,}) over those that the largest single configuration, `{BEST}`, put there ({single:,})"
    count = "configurations explored, trees at several widths and two guides among them"
    return [
        Claim("tuning-cost", text, times, times, times, "<= 1.5", bool(times <= 1.5), problems, 1),
        Claim(
            "tuning-explored", count, configurations, configurations, configurations, ">= 200", configurations >= 200, problems, 1
        ),
    ]


def rows(found: dict[str, Result], specs: Sequence[str]) -> str:
    """Results as a Markdown table."""
    lines = ["| strategy | tokens | accuracy | 95% interval | chain | countdown |", "|---|--:|--:|---|--:|--:|"]
    for spec in dict.fromkeys(specs):
        one = found[spec]
        [at] = mean_intervals(one.correct_P[:, None], seed=0)
        parts = [float(one.correct_P[mine].mean()) for mine in (one.chain_P, ~one.chain_P)]
        name = spec.replace(f"card={CARD!r}", "card=...")
        lines.append(
            f"| `{name}` | {one.tokens:.0f} | {at.value:.3f} | [{at.low:.3f}, {at.high:.3f}] | {parts[0]:.3f} | {parts[1]:.3f} |"
        )
    return "\n".join(lines)


def figure(found: dict[str, Result], card: Card, fixed: tuple[list[str], np.ndarray, np.ndarray]) -> None:
    """Auto against every fixed strategy; the dashed line is the best of them at each cost, chosen on these very problems."""
    specs, right_P_C, tokens_C = fixed
    autos = [found[spec_of(budget)] for budget in card.budgets]
    lines = [drawn("auto", np.stack([one.correct_P for one in autos], axis=1), np.array([one.tokens for one in autos]))]
    for name, pattern in FAMILIES.items():
        at = [column for column, spec in enumerate(specs) if re.fullmatch(pattern, spec)]
        lines.append(drawn(name, right_P_C[:, at], tokens_C[at]))
    order = np.argsort(tokens_C, kind="stable")
    accuracy = right_P_C.mean(axis=0)[order]
    front = [order[k] for k in range(len(order)) if accuracy[k] > accuracy[:k].max(initial=0.0)]
    bound = drawn(f"best of {len(specs)}, hindsight", right_P_C[:, front], tokens_C[front])
    lines.append(Series(bound.name, bound.x, bound.y, bound.low, bound.high, kind="bound"))
    caption = f"lab/base, 3- and 4-number countdown and chains of 2 to 20, {len(right_P_C)} test problems, 3 seeds; pilots and guides included"
    curve_figure(lines, DOCS / "evidence" / "tune.png", title="auto against every fixed strategy", caption=caption)


def drawn(name: str, right_P_C: np.ndarray, tokens_C: np.ndarray) -> Series:
    """A line of the figure, by rising cost; of points that cost the same, the first."""
    order = [at for at in np.argsort(tokens_C, kind="stable")]
    kept = [at for k, at in enumerate(order) if not k or tokens_C[at] > tokens_C[order[k - 1]]]
    intervals = mean_intervals(right_P_C[:, kept], seed=0)
    values = [one.value for one in intervals], [one.low for one in intervals], [one.high for one in intervals]
    return Series(name, [float(tokens_C[at]) for at in kept], *values)


def main() -> None:
    """Tune on the train split, run on the test split, claim, draw, and put the tables into the pages."""
    train = read(ROOT / "recipes" / "tune_lab.toml")
    runs = finished(train)
    folder = ROOT / "studies" / train.name
    mine = [run for run in runs if run.strategy == repr(parse_strategy(BEST))]
    target, tokens = (
        float(np.mean([getter(run) for run in mine])) for getter in (lambda r: r.correct, lambda r: r.spent.usage.tokens)
    )
    card = asyncio.run(tuned([folder], BUDGETS, None, Purse(limit=SPEND), "mean"))
    write_card(card, ROOT / CARD)
    names, right_P_C, tokens_C = hindsight(folder, train)
    single = names[int(np.where(tokens_C <= tokens, right_P_C.mean(axis=0) - 1e-8 * tokens_C, -1).argmax())]
    specs = [*map(spec_of, card.budgets), *(e.fixed for e in card.expected), single, BEST, VOTE]
    found = results(finished(test_study(specs)), specs)
    made = claims(card, found, single, target, tokens) + explored(card, train.slice, folder / "study.db")
    fixed = hindsight(ROOT / "studies" / "tune-test", train)
    made += in_hindsight(card, found, fixed)
    insert(DOCS / "evidence" / "tune.md", "tune", rows(found, specs))
    head = "Lab, a mix of countdown and chains, default model; regenerated by `make evidence NAME=tune`.\n\n"
    insert(DOCS / "strategies" / "auto.md", "auto", head + rows(found, [*map(spec_of, card.budgets), BEST, VOTE]))
    figure(found, card, fixed)
    save("tune", made)


def in_hindsight(card: Card, found: dict[str, Result], fixed: tuple[list[str], np.ndarray, np.ndarray]) -> list[Claim]:
    """Auto against the fixed strategy that is the best within auto's tokens on the test problems themselves, which nobody could have known."""
    specs, right_P_C, tokens_C = fixed
    made = []
    for budget in card.budgets:
        auto = found[spec_of(budget)]
        at = int(np.where(tokens_C <= auto.tokens, right_P_C.mean(axis=0), -1.0).argmax())
        gain = float(auto.correct_P.mean() - right_P_C[:, at].mean())
        text = f"accuracy of auto at {budget} tokens over `{specs[at]}`, the best fixed within its tokens chosen in hindsight"
        made.append(Claim(f"hindsight-{budget}", text, gain, gain, gain, None, None, len(right_P_C), auto.seeds))
    return made


if __name__ == "__main__":
    main()
