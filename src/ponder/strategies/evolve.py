"""Evolution of whole answers: select the best so far, let the policy vary them, and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ponder.core import Verifier
from ponder.errors import UsageError
from ponder.prompting import ask, read
from ponder.run import Run
from ponder.spec import named
from ponder.strategies.steps import Choice, Worth, best, check, check_final, judged, prefix, starts, until
from ponder.types import Chain

if TYPE_CHECKING:
    from random import Random


@named("evolve")
@dataclass(frozen=True, slots=True, repr=False)
class Evolve:
    """`population` answers, then `generations` times as many new ones made from the `parents` best of all (EvoScale, arXiv:2505.23604, 3.1).

    mutate: "prompt" shows the parents to the policy, best first, and asks for a better answer, as in the paper; "step" keeps the beginning
    of a parent up to a step drawn uniformly and samples the rest anew, for policies that follow no instructions.
    prompt: a shipped prompt or the path of one (`ponder.prompting`), with places for {question} and {attempts}.

    Answers that were cut, failed or came to nothing are no parents; without any parent the generation is sampled from the question. Every
    answer is scored as an answer to the question itself. Cost: population * (generations + 1) samples and scores; prompts grow by the
    parents' length. Candidates of all generations are chosen from by `final`; none follows
    one in which an answer has the value `accept`.
    """

    population: int
    generations: int
    verifier: Verifier
    parents: int = 2
    mutate: str = "prompt"
    prompt: str = "evolve@1"
    step: str | int = "line"
    final: str = "max"
    accept: float | None = None

    def __post_init__(self) -> None:
        check("evolve", population=self.population, generations=self.generations, parents=self.parents)
        check_final("evolve", self.final, accept=self.accept)
        until(self.step)
        if self.mutate not in ("prompt", "step"):
            raise UsageError(f"evolve: mutate = {self.mutate!r} must be prompt or step")
        read(self.prompt, "question", "attempts")

    @property
    def continues(self) -> bool:
        """Whether it goes on from partial answers (`ponder.core.continues`)."""
        return self.mutate == "step"

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        choice, random, pool = Choice(self.final, self.accept), run.random(root, "evolve"), list[Worth]()
        for _ in range(self.generations + 1):
            chosen = [one.chain for one in best(pool, self.parents)]
            children = await run.extend(self._begun(root, chosen, random))
            found = await judged(run, self.verifier, [Chain(root.prompt, child.steps, child.finish) for child in children])
            choice.add(run, found)
            if choice.settled:
                return
            pool = best(pool + found, self.parents)

    def _begun(self, root: Chain, parents: Sequence[Chain], random: Random) -> list[Chain]:
        """What the next generation is sampled from."""
        if not parents:
            return [root] * self.population
        if self.mutate == "step":
            turns = [parents[at % len(parents)] for at in range(self.population)]
            return [prefix(parent, random.choice(starts(parent, self.step))) for parent in turns]
        attempts = "\n\n".join(f"Attempt {at}:\n{parent.text.strip()}" for at, parent in enumerate(parents, 1))
        return [Chain(ask(read(self.prompt), root.prompt, attempts=attempts))] * self.population
