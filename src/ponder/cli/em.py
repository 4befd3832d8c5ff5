"""`ponder train em`: sample, verify, train, and again; `ponder.learners.em` says what the methods are.

    out/round-0/eval             the base on held-out problems
    out/round-1/sample           what its samples on training problems were, judged (a study)
    out/round-1/policy           trained on those that were kept (a model folder)
    out/round-1/eval             and what that came to (a study)
    out/em.json                  settings and a report for each round

Every part is a study or a finished folder, so a loop that was stopped goes on where it was when the same line is run again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ponder.cli.bases import policy_spec
from ponder.cli.harvest import harvest
from ponder.cli.hints import hinted, original
from ponder.cli.rounds import Measured, measured, run_study, sampled_tokens
from ponder.cli.runner import parse_policy
from ponder.cli.study import Study, check
from ponder.errors import CorruptError, DataError, UsageError
from ponder.learners.datasets import Sample, check_split, distinct, pairs
from ponder.learners.em import EM, Found, Report, best, e_step, stalled, unsolved
from ponder.store import Journal, StudyStore
from ponder.store.export import write as write_lines
from ponder.store.journal import take
from ponder.types import Chain, Message, Step

if TYPE_CHECKING:
    from ponder.learners.training import Recipe, Trained


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop: what is trained, on what, how it is judged.

    base: model folder. tasks: specs of training problems; dev: spec of held-out problems, which must be others. slice: samples of each
    held-out problem. hint: template of a hinted question. search: strategies that are tried on held-out problems with the policy of each
    round, "{verifier}" in them standing for the round's verifier. resume: the command that goes on with it.
    """

    base: Path
    tasks: tuple[str, ...]
    dev: str
    em: EM
    recipe: Recipe
    verifier_recipe: Recipe
    out: Path
    seed: int = 0
    slice: int = 32
    hint: str = ""
    search: tuple[str, ...] = ()
    max_tokens: int | None = None
    resume: str = ""

    def __post_init__(self) -> None:
        if self.slice < 1:
            raise UsageError(f"loop: slice = {self.slice} samples of each held-out problem must be at least 1")
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"loop: seed = {self.seed} must lie in [0, 2**31)")
        if not self.em.beside and any("{verifier}" in spec for spec in self.search):
            raise UsageError(
                "loop: search names {verifier}, and no verifier is trained: give em.beside, such as 'process', or name another"
            )

    def run(self) -> Iterator[Report]:
        """One report a round, the base's first; ends early as `EM.patience` says.

        Raises `LockedError` while another process is at work in the folder, `CorruptError` for files in it that no loop wrote.
        """
        self._check_problems()
        lock = take(self.out / "em.json")
        try:
            yield from self._rounds()
        finally:
            os.close(lock)

    def _rounds(self) -> Iterator[Report]:
        self._keep_settings()
        reports = [self._report(0, self.base, 0, 0, 0, 0.0)]
        yield reports[-1]
        sampled = trained = 0
        flops = 0.0
        policy = self.base
        for number in range(1, self.em.rounds + 1):
            spent = self._sample(number, policy)
            sampled += spent
            facts, kept = self._train(number, policy)
            policy = self.policy(number)
            trained += facts.tokens
            flops += 2.0 * self._parameters() * spent + facts.flops
            reports.append(self._report(number, policy, kept, sampled, trained, flops))
            self._write(reports)
            yield reports[-1]
            if stalled(reports, self.em.patience):
                break

    def policy(self, number: int) -> Path:
        """The policy after a round."""
        return self.out / f"round-{number}" / "policy" if number else self.base

    def verifier(self, number: int) -> Path:
        """The verifier trained in a round."""
        return self.out / f"round-{number}" / "verifier"

    def samples(self, number: int) -> list[Sample]:
        """The judged samples of a round, those with a hint under their problem's own prompt."""
        where = self.out / f"round-{number}"
        found = list(harvest([where / "sample"]))
        if (where / "hinted").exists():
            prompts = {sample.problem: sample.prompt for sample in found}
            found += [original(sample, prompts) for sample in harvest([where / "hinted"])]
        return found

    def _sample(self, number: int, policy: Path) -> int:
        where = self.out / f"round-{number}"
        verifier = self.em.verifier
        strategy = f"best_of_n(n={self.em.samples}, verifier={verifier})" if verifier else "sample"
        study = self._study(f"em-{number}", list(self.tasks), policy, self.em.samples, strategy)
        run_study(study, where / "sample", resume=self.resume)
        spent = sampled_tokens(where / "sample")
        if self.em.rationalise:
            failed = unsolved(harvest([where / "sample"]))
            if failed:
                template = self.hint
                run_study(study, where / "hinted", resume=self.resume, adapt=lambda task: hinted(task, failed, template))
                spent += sampled_tokens(where / "hinted")
        return spent

    def _train(self, number: int, policy: Path) -> tuple[Facts, int]:
        """Policy, and verifier beside it; gives what they cost, and how many samples the policy learned from."""
        from ponder.learners.policy import finetune

        kept = e_step([self.samples(i) for i in range(1, number + 1)], self.em, self.seed, self._chosen(number))
        if not kept:
            raise DataError(
                f"round {number}: no sample of {', '.join(self.tasks)} was right, so there is nothing to train on; "
                "draw more (--samples), take easier problems, or a better base"
            )
        target, seed = self.policy(number), self.seed + number
        start = self.base if self.em.restart else policy
        cost = self._once(target, lambda: finetune(start, kept, target, recipe=self.recipe, seed=seed))
        if self.em.beside:
            more = self._once(self.verifier(number), lambda: self._beside(number))
            cost = Facts(cost.tokens + more.tokens, cost.flops + more.flops)
        return cost, len(kept)

    def _once(self, folder: Path, train: Callable[[], Trained]) -> Facts:
        """What training cost; a folder with its card is a training that is done."""
        for stopped in folder.parent.glob(f".{folder.name}-*"):  # a process that was killed had no time to
            shutil.rmtree(stopped, ignore_errors=True)
        card = folder / "card.json"
        if not card.is_file():
            train()
        try:
            cost = json.loads(card.read_text("utf-8"))["training"]["cost"]
            return Facts(cost["tokens"], cost["flops"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptError(
                f"{card}: is not what a training wrote ({error!r}); remove {folder}, and it is trained again"
            ) from None

    def _beside(self, number: int) -> Trained:
        """The round's verifier, from the samples of all rounds so far."""
        pool = [sample for i in range(1, number + 1) for sample in self.samples(i)]
        target, seed = self.verifier(number), self.seed + number
        match self.em.beside:
            case "preference":
                from ponder.learners.preference import train_preference

                couples = pairs(distinct(pool), most=self.em.pairs, seed=self.seed)
                return train_preference(self.policy(number), couples, target, recipe=self.verifier_recipe, seed=seed)
            case "outcome":
                from ponder.learners.outcome import train_outcome

                return train_outcome(self.base, distinct(pool), target, recipe=self.verifier_recipe, seed=seed)
            case _:
                from ponder.learners.labels import from_samples, soft
                from ponder.learners.process import train_process

                chains = list(dict.fromkeys(soft(one) for one in from_samples(pool)))
                return train_process(self.base, chains, target, recipe=self.verifier_recipe, seed=seed)

    def _chosen(self, number: int) -> frozenset[tuple[str, str]]:
        """What the verifier chose in the rounds that are trained on, by problem and text."""
        if not self.em.verifier:
            return frozenset()
        found: set[tuple[str, str]] = set()
        for i in range(1, number + 1) if self.em.grow else (number,):
            where = self.out / f"round-{i}" / "sample"
            with ExitStack() as stack:
                store = StudyStore(stack.enter_context(Journal(where / "study.db", hold=False)))
                best = {(run.problem, run.chain) for run in store.runs() if run.strategy.startswith("best_of_n")}
            for sample in harvest([where]):
                digest = Chain(sample.prompt, (Step(sample.text),)).digest
                if (sample.problem, digest) in best:
                    found.add((sample.problem, sample.text))
        return frozenset(found)

    def _report(self, number: int, policy: Path, kept: int, sampled: int, trained: int, flops: float) -> Report:
        where = self.out / f"round-{number}" / "eval"
        strategies = ["sample", *self._strategies(number)]
        run_study(self._study(f"em-{number}-eval", [self.dev], policy, self.slice, *strategies), where, resume=self.resume)
        seen: Measured = measured(where)
        first = seen.interval(1)
        return Report(
            number,
            sampled,
            kept,
            trained,
            flops,
            seen.pass_at,
            first.low,
            first.high,
            seen.entropy,
            len(seen.pass_P_K),
            {name: Found(*numbers) for name, numbers in seen.strategies.items() if name != "sample"},
            sum(sampled_tokens(self.out / f"round-{i}" / "eval") for i in range(number + 1)),
        )

    def _strategies(self, number: int) -> list[str]:
        """The search of a round; strategies that need a verifier wait for the first."""
        if not number or not self.em.beside:
            return [spec for spec in self.search if "{verifier}" not in spec]
        kind = "likelihood" if self.em.beside == "preference" else "reward_model"
        name = f"{kind}({str(self.verifier(number).absolute())!r})"
        return [spec.replace("{verifier}", name) for spec in self.search]

    def _study(self, name: str, tasks: list[str], policy: Path, slice_: int, *strategies: str) -> Study:
        body: dict[str, object] = {
            "name": name,
            "tasks": tasks,
            "policies": [policy_spec(policy)],
            "strategies": list(strategies),
            "slice": slice_,
            "seeds": [self.seed],
            "sampling": [{"temperature": self.em.temperature if "eval" not in name else 1.0}],
        }
        return check(body | ({"max_tokens": self.max_tokens} if self.max_tokens else {}), name)

    def _parameters(self) -> int:
        return parse_policy(policy_spec(self.base)).info.parameters or 0

    def _check_problems(self) -> None:
        """A held-out problem among the training problems is an error, as are two training problems under one id."""
        from typing import cast

        from ponder.core import Task
        from ponder.spec import parse

        def asked(spec: str) -> list[Sample]:
            task = cast("Task", parse(spec, "tasks"))
            return [Sample(p.question.id, p.question.messages, (), False, None, "stop", "", 0.0, None, 0) for p in task.problems]

        train = [sample for spec in self.tasks for sample in asked(spec)]
        check_split(train, asked(self.dev))
        prompts: dict[str, tuple[Message, ...]] = {}
        for one in train:
            if prompts.setdefault(one.problem, one.prompt) != one.prompt:
                raise DataError(
                    f"two training problems bear the id {one.problem!r} and would be taken for one; give problems of different files "
                    "different ids, as with jsonl(path, id=...)"
                )

    def _keep_settings(self) -> None:
        """Settings beside the results; a folder that holds a loop with other settings is refused."""
        file = self.out / "em.json"
        mine = json.loads(json.dumps(self._settings(), default=str))
        if file.is_file():
            try:
                theirs = json.loads(file.read_text("utf-8"))["settings"]
                other = [key for key in mine if key in theirs and mine[key] != theirs[key]]
            except (ValueError, KeyError, TypeError) as error:
                raise CorruptError(f"{file}: is not what a loop wrote ({error!r}); give another --out") from None
            if other:
                raise UsageError(
                    f"{self.out} holds a loop with another {other[0]} ({theirs.get(other[0])!r}, not {mine[other[0]]!r}); "
                    "give another --out, or the same settings to go on"
                )
        else:
            write_lines(iter([json.dumps({"settings": mine, "rounds": []}, indent=1)]), file)

    def _settings(self) -> dict[str, object]:
        from ponder.learners.training import fingerprint

        shown = {"base": str(self.base), "tasks": self.tasks, "dev": self.dev, "seed": self.seed, "slice": self.slice}
        return (
            shown
            | {"hint": self.hint, "search": self.search, "max_tokens": self.max_tokens, "em": asdict(replace(self.em, rounds=1))}
            | {"recipe": asdict(self.recipe), "verifier_recipe": asdict(self.verifier_recipe), "weights": fingerprint(self.base)}
        )

    def _write(self, reports: list[Report]) -> None:
        file = self.out / "em.json"
        body = {
            "settings": self._settings(),
            "rounds": [asdict(report) for report in reports],
            "best": {"round": best(reports).round, "policy": str(self.policy(best(reports).round))},
        }
        write_lines(iter([json.dumps(body, indent=1, default=str)]), file)


@dataclass(frozen=True, slots=True)
class Facts:
    """What an M-step cost: tokens read, floating-point operations."""

    tokens: int
    flops: float
