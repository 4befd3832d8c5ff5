"""Tests that a model wrote, run on what a model wrote: belief without a reference.

Neither is trusted: each test runs in a sandboxed process of its own and calls the program in another (`ponder.sandbox.relay`).
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import json
import re
from collections import Counter
from collections.abc import Container, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

from ponder.errors import DataError, UsageError
from ponder.run import Run
from ponder.sandbox.core import Call, Handle, Limits, Reply, Sandbox, Value
from ponder.sandbox.relay import Found, Suite, examine
from ponder.spec import named
from ponder.types import Chain, Message, Score

RULES = ("share", "agreement", "outputs")
Results: TypeAlias = dict[tuple[str, str], Found]
_Prompt: TypeAlias = tuple[Message, ...]


@named("unit_tests")
@dataclass(frozen=True, slots=True, repr=False)
class UnitTests:
    """Ask the policy for tests of the problem, and believe the programs that pass them (CodeT, Chen et al. 2022, arXiv:2207.10397).

    share        value: passed tests / tests that called any of the programs scored together for the same question
    agreement    value: that share times the share of the programs, among those scored together, that pass exactly the same tests:
                 section 2.2's |programs| x |tests| of a consensus set, scaled to [0, 1]
    outputs      value: the share of the programs, among those scored together, that give the same for every call in the tests, whatever the
                 tests expect: a majority of outputs (MBR-exec, Shi et al. 2022, arXiv:2204.11454, section 3). An exception is an
                 output; programs that give no value for any call have no score

    n: how many times tests are asked for. tests: how many are asked for each time, and n * tests the most that are used: distinct
    lines `assert ...` of finished replies, in order. unfinished: of replies that were cut by their length, too, the last line of each aside:
    a small model often knows no end. seconds: for one test of one program, by `outputs` for all calls of one. prompt: path of another prompt, a JSON
    file with messages that take the place of the last one and hold {question} and {tests}.

    Raw is the number of passed tests, by `outputs` the number of programs that agree. No score: a chain without a program, or without a
    test that calls it. Tests are asked for once in each call of `score` for each different prompt, in a stream of their own. Deviation from the paper: it samples 100 replies of up to
    five tests.
    """

    runs_code: ClassVar[Literal[True]] = True
    n: int = 1
    tests: int = 10
    rule: str = "share"
    unfinished: bool = False
    seconds: float = 2.0
    prompt: str = ""
    sandbox: Sandbox | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value in (("n", self.n), ("tests", self.tests)):
            if value < 1:
                raise UsageError(f"unit_tests: {name} = {value} must be at least 1")
        if self.rule not in RULES:
            raise UsageError(f"unit_tests: rule {self.rule!r} must be one of {', '.join(RULES)}")
        Limits(seconds=self.seconds)
        _template(self.prompt)

    @property
    def fingerprint(self) -> str:
        """It samples through the run, so its scores are never banked; the samples are."""
        return ""

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        """One score for each chain. Raises `SetupError` where there is no sandbox."""
        programs = [_program(chain, answer) for chain, answer in zip(chains, run.answers(chains), strict=True)]
        asked = [chain.prompt for chain, program in zip(chains, programs, strict=True) if program]
        written = await self._written(list(dict.fromkeys(asked)), run)
        if self.rule == "outputs":
            return await self._alike([chain.prompt for chain in chains], programs, written)
        pairs = [
            (program, test) for chain, program in zip(chains, programs, strict=True) if program for test in written[chain.prompt]
        ]
        results = await self._run(pairs)
        spoken = {
            (prompt, test)
            for prompt, program in zip(asked, filter(None, programs), strict=True)
            for test in written[prompt]
            if results[program, test].calls
        }
        passed = [
            None
            if program is None
            else _passed(program, [test for test in written[chain.prompt] if (chain.prompt, test) in spoken], results)
            for chain, program in zip(chains, programs, strict=True)
        ]
        alike = Counter((chain.prompt, one[0]) for chain, one in zip(chains, passed, strict=True) if one)
        together = Counter(asked)
        scores = []
        for chain, one in zip(chains, passed, strict=True):
            if one is None:
                scores.append(_NO_PROGRAM)
            elif not one[1]:
                scores.append(Score(None, error=f"unit_tests: none of {len(written[chain.prompt])} tests calls the program"))
            else:
                share = len(one[0]) / one[1]
                crowd = alike[chain.prompt, one[0]] / together[chain.prompt] if self.rule == "agreement" else 1.0
                scores.append(Score(share * crowd, float(len(one[0]))))
        return scores

    async def _alike(
        self, prompts: Sequence[_Prompt], programs: Sequence[str | None], written: Mapping[_Prompt, list[str]]
    ) -> list[Score]:
        """Scores by rule `outputs`."""
        given = {(prompt, program) for prompt, program in zip(prompts, programs, strict=True) if program}
        calls = {
            prompt: list(_calls(tests, {name for of, program in given if of == prompt for name in _names(program)}))
            for prompt, tests in written.items()
        }
        sandbox, limits = self.sandbox or _best_room(), Limits(seconds=self.seconds)

        def one(prompt: _Prompt, program: str) -> tuple[Hashable, ...] | None:
            replies = sandbox.run(program, calls[prompt], limits).replies
            if all(reply.error for reply in replies):
                return None
            return (*map(_output, replies), *["stopped"] * (len(calls[prompt]) - len(replies)))

        runs = sorted(given, key=str)
        found = dict(zip(runs, await asyncio.gather(*(asyncio.to_thread(one, *run) for run in runs)), strict=True))
        told = [found.get((prompt, program or "")) for prompt, program in zip(prompts, programs, strict=True)]
        alike, together = (
            Counter(zip(prompts, told, strict=True)),
            Counter(p for p, program in zip(prompts, programs, strict=True) if program),
        )
        scores = []
        for prompt, program, outputs in zip(prompts, programs, told, strict=True):
            if program is None:
                scores.append(_NO_PROGRAM)
            elif outputs is None:
                scores.append(Score(None, error=f"unit_tests: the program gives no value for any of {len(calls[prompt])} calls"))
            else:
                agree = alike[prompt, outputs]
                scores.append(Score(agree / together[prompt], float(agree)))
        return scores

    async def _written(self, prompts: Sequence[tuple[Message, ...]], run: Run) -> dict[tuple[Message, ...], list[str]]:
        """Tests for each prompt, as the policy writes them."""
        if not prompts:
            return {}
        roots = [Chain(_asking(prompt, _template(self.prompt), self.tests)) for prompt in prompts]
        replies = await run.extend(roots, n=self.n)
        most = self.n * self.tests
        return {
            prompt: list(
                dict.fromkeys(test for reply in replies[at * self.n :][: self.n] for test in _asserts(reply, self.unfinished))
            )[:most]
            for at, prompt in enumerate(prompts)
        }

    async def _run(self, pairs: Sequence[tuple[str, str]]) -> Results:
        different = list(dict.fromkeys(pairs))
        if not different:
            return {}
        sandbox, limits = self.sandbox or _best_room(), Limits(seconds=self.seconds)

        def one(program: str, test: str) -> Found:
            return examine(sandbox, program, Suite(test, {name: name for name in _names(program)}), limits)

        found = await asyncio.gather(*(asyncio.to_thread(one, *pair) for pair in different))
        return dict(zip(different, found, strict=True))


def _passed(program: str, tests: Sequence[str], results: Results) -> tuple[frozenset[str], int]:
    """The tests that a program passes, and of how many: those that call any program of the question, or who defines less would pass more."""
    return frozenset(test for test in tests if results[program, test].passed), len(tests)


_NO_PROGRAM = Score(None, error="unit_tests: the chain gives no program")


def _calls(tests: Sequence[str], names: Container[str]) -> Iterator[Call]:
    """The calls of the programs in the tests, each once, as far as their arguments are literals. Nothing is evaluated but these."""
    seen = set()
    for test in tests:
        try:
            nodes = list(ast.walk(ast.parse(test)))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in nodes:
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names):
                continue
            if any(isinstance(part, ast.Constant) and part.value is Ellipsis for part in ast.walk(node)):
                continue  # a literal, but no plain value
            text = ast.unparse(node)
            with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
                call = Call(node.func.id, tuple(ast.literal_eval(arg) for arg in node.args), given)
                if text not in seen and len(given) == len(node.keywords):
                    yield call
                seen.add(text)


def _output(reply: Reply) -> Hashable:
    """What a call gave, as something that can be compared and counted."""
    return ("raised", reply.error) if reply.error else _frozen(reply.value)


def _frozen(value: Value | Handle) -> Hashable:
    match value:
        case list() | tuple():
            return (type(value).__name__, *map(_frozen, value))
        case set() | frozenset():
            return ("set", frozenset(map(_frozen, value)))
        case dict():
            return ("dict", frozenset((_frozen(key), _frozen(item)) for key, item in value.items()))
        case Handle():
            return object()  # equal to no other: what it is cannot be seen from here
        case float() if value != value:
            return "nan"
        case str():
            return ("str", value)
        case _:
            return value  # 1, 1.0 and True are equal, as the comparison of a test finds them


def _names(program: str) -> list[str]:
    """What a test may call. What it means by `abs` or `sorted` is Python's, whatever the program calls its own."""
    return [name for name in _DEFINITION.findall(program) if not hasattr(builtins, name)]


_DEFINITION = re.compile(r"^(?:(?:async[ \t]+)?def|class)[ \t]+(\w+)", re.MULTILINE)
_CODE = ("def ", "from ", "import ", "class ", "@")
_FUNCTION = re.compile(r"^def[ \t]", re.MULTILINE)


def _program(chain: Chain, answer: str | None) -> str | None:
    """The answer, under the code that the question gives it to go on from, if it does."""
    if answer is None:
        return None
    question = chain.prompt[-1].text if chain.prompt else ""
    given = [block.removeprefix("python") for block in question.split("```")[1::2]]
    if not given and question.lstrip().startswith(_CODE):
        given = [question]
    code = [block for block in given if _FUNCTION.search(block)]
    return f"{code[-1].strip()}\n{answer}" if code else answer


def _asserts(reply: Chain, unfinished: bool) -> list[str]:
    """The lines of a finished reply that assert something, thinking aside. unfinished: those of one cut by its length, too, but its last."""
    if reply.finish != "stop" and not (unfinished and reply.finish == "length"):
        return []
    said = reply.text.rpartition("</think>")[2]
    if reply.finish == "length" and "<think>" in said:
        return []
    lines = [line.strip() for line in said.split("\n")]
    whole = lines if reply.finish == "stop" else lines[:-1]
    return [line for line in whole if line.startswith("assert ")]


def _asking(prompt: tuple[Message, ...], template: Sequence[Message], tests: int) -> tuple[Message, ...]:
    parts = {"question": prompt[-1].text, "tests": str(tests)}
    filled = (Message(m.role, (_PART.sub(lambda part: parts.get(part[1], part[0]), m.text),)) for m in template)
    return (*prompt[:-1], *filled)


_PART = re.compile(r"\{(\w+)\}")


def _template(path: str) -> tuple[Message, ...]:
    own = resources.files("ponder.verifiers") / "prompts" / "unit_tests.json"
    try:
        body = json.loads(Path(path).read_text("utf-8") if path else own.read_text("utf-8"))
        messages = tuple(Message(message["role"], (str(message["content"]),)) for message in body["messages"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"unit_tests: prompt {path!r} is no JSON file with messages ({error})") from None
    if not any("{question}" in message.text for message in messages):
        raise DataError(f"unit_tests: prompt {path!r}: none of its messages holds {{question}}")
    return messages


def _best_room() -> Sandbox:
    from ponder.sandbox.rooms import room  # starts processes

    return room()
