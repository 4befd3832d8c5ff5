"""Staged reasoning: a fixed sequence of stages between tags, each sampled several times and chosen before the next begins."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.core import END, Until, Verifier
from ponder.errors import UsageError
from ponder.prompting import ask, read
from ponder.run import Run
from ponder.spec import named
from ponder.strategies.steps import Choice, Worth, best, check, check_final, judged, texts
from ponder.types import Chain, Step


@named("stages")
@dataclass(frozen=True, slots=True, repr=False)
class Stages:
    """Stage-level beam search (LLaVA-o1, Xu et al. 2024, arXiv:2411.10440, section 3.3): `branch` samples of each stage, the `width` best go on.

    Each stage begins with its opening tag, put there by the strategy, and ends with its closing tag; the last goes to the end of the answer.
    prompt: what tells the policy so (`ponder.prompting`, with {question} and {stages}); "" asks the question as it is, for a policy trained to
    write these stages. Guides judge the stages so far as an answer to the question itself.

    Deviation: any verifier chooses; the paper has the policy compare two candidates at a time, which is `verifier=pairwise()`. A policy
    that ends its answer before the last stage has finished there. Cost: width * branch samples a stage, the first included, and their scores.
    """

    branch: int
    verifier: Verifier
    width: int = 1
    stages: tuple[str, ...] = ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION")
    prompt: str = "stages@1"
    final: str = "max"

    def __post_init__(self) -> None:
        texts("stages", stages=self.stages)
        check("stages", branch=self.branch, width=self.width, stages=len(self.stages))
        check_final("stages", self.final)
        for stage in self.stages:
            if not stage.strip("_-").isalnum():
                raise UsageError(f"stages: a stage is a tag of letters and digits, not {stage!r}")
        if self.prompt:
            read(self.prompt, "question", "stages")

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        told = root.prompt
        if self.prompt:
            told = ask(read(self.prompt), told, stages=", ".join(f"<{stage}> ... </{stage}>" for stage in self.stages))
        choice, beam = Choice(self.final), [Worth(Chain(told))]
        for at, stage in enumerate(self.stages):
            tag = Step(f"<{stage}>" if not at else f"\n<{stage}>", source="injected")
            parents = [one.chain.then(tag) for one in beam if one.live]
            if not parents:
                return
            until = END if at == len(self.stages) - 1 else Until(stop=(f"</{stage}>",))
            n = self.branch if at else self.width * self.branch
            children = await run.extend(parents, n=n, until=until)
            found = await judged(run, self.verifier, [Chain(root.prompt, child.steps, child.finish) for child in children])
            choice.add(run, found)
            beam = best([one for one in beam if not one.live] + found, self.width)
            beam = [Worth(Chain(told, one.chain.steps, one.chain.finish), one.value) for one in beam]
