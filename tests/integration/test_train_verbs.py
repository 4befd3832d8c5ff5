"""`ponder train ...`, `label` and `export --as` as a user types them, from one small study of the smallest lab model."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("trl")

from ponder.cli.main import run_app
from ponder.learners.exports import read, read_pairs
from ponder.types import Chain

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # TRL asks by the old name
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "made"
    task = "countdown(numbers=3, n=24, split='train')"
    assert (
        run_app(["run", "--task", task, "--policy", "lab:small", "--strategy", "sample", "--slice", "8", "--out", str(folder)])
        == 0
    )
    return folder


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("verb", "more", "verifier"),
    [
        ("outcome", [], "reward_model"),
        ("outcome", ["--pairs"], "reward_model"),
        ("outcome", ["--every-token", "--balanced", "--solve", "1", "--surprise"], "reward_model"),
        ("process", ["--optimizer", "muon", "--solve", "0.5", "--surprise"], "reward_model"),
        ("preference", [], "likelihood"),
        ("genrm", ["--epochs", "20", "--weight", "0"], "judge"),
    ],
)
def test_a_verifier_is_trained_measured_and_used(study, tmp_path, capsys, verb, more, verifier):
    out = tmp_path / "out"
    words = [
        "train",
        verb,
        str(study),
        "--out",
        str(out),
        "--model",
        "lab:small",
        "--share",
        "0.3",
        "--batch",
        "16",
        *more,
        "--json",
    ]
    assert run_app(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["verifier"].startswith(f"{verifier}(")
    assert said["tokens"] > 0
    report = json.loads((out / "calibration.json").read_text())
    assert report["whole"]["n"] > 0
    assert report["unscored"] == 0
    strategy = f"best_of_n(n=4, verifier={said['verifier']})"
    task = "countdown(numbers=3, n=2)"
    used = ["run", "--task", task, "--policy", "lab:small", "--strategy", strategy, "--out", str(tmp_path / "used"), "--json"]
    assert run_app(used) == 0


def test_hard_negatives_weigh_more(study, tmp_path, capsys):
    first = ["train", "process", str(study), "--out", str(tmp_path / "first"), "--model", "lab:small", "--batch", "16"]
    assert run_app(first) == 0
    capsys.readouterr()
    earlier = f"reward_model({str(tmp_path / 'first')!r})"
    again = [
        "train",
        "process",
        str(study),
        "--out",
        str(tmp_path / "again"),
        "--model",
        str(tmp_path / "first"),
        "--hard",
        earlier,
    ]
    assert run_app(again) == 0
    told = capsys.readouterr()
    assert f"wrong samples that {earlier} believes weigh 4" in told.err
    assert run_app([*again, "--json"]) == 0
    bill = json.loads(capsys.readouterr().out)
    assert bill["beside_tokens"] > bill["measuring_tokens"] > 0, "nine in ten problems are trained on"


def test_what_a_writer_of_rationales_takes_is_on_the_bill(study, tmp_path, monkeypatch):
    from ponder.cli import rationales
    from ponder.cli.learning import gather
    from ponder.verifiers.judge import form

    async def drawn(samples, run, *_, **__):
        await run.extend([Chain(samples[0].prompt)], n=2)
        return []

    monkeypatch.setattr(rationales, "rationales", drawn)
    data = gather([study], share=0.3, seed=0, step="\n")
    how = rationales.Writing("lab:small", 2, 1, form("lab_genrm@1"), form("genrm_cot_guided@1"), 64)
    [none, tokens] = rationales.write(data.train, how, tmp_path / "bank.db", resume="")
    assert none == []
    assert tokens > 0


def test_longer_examples_take_part_where_asked(study, tmp_path, capsys):
    words = ["train", "outcome", str(study), "--out", str(tmp_path / "out"), "--model", "lab:small", "--share", "0.3"]
    assert run_app([*words, "--max-length", "5"]) == 2
    assert "of 0 samples 0 are right, and" in capsys.readouterr().err
    assert run_app([*words, "--max-length", "600", "--batch", "16", "--json"]) == 0
    assert json.loads((tmp_path / "out" / "card.json").read_text())["training"]["recipe"]["max_length"] == 600


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "process", "--least", "0"], "process: least = 0 must lie in [1, "),
        (["train", "outcome", "--seed", "-1"], "training: seed = -1 must lie in [0, "),
        (["train", "genrm", "--weight", "nan"], "unified: weight = nan must be a number of at least 0"),
        (
            ["train", "outcome", "--hard", "reward_model('lab/orm_trial')", "--hard-weight", "inf"],
            "--hard-weight = inf must be a",
        ),
        (["train", "rl", "--limit", "-1"], "train rl: limit = -1 must be at least 1; leave it out for all problems"),
        (["label", "--limit", "0"], "label: concurrency = 64 and limit = 0 must be at least 1"),
        (["label", "--concurrency", "0"], "label: concurrency = 0 and limit = None must be at least 1"),
        (
            ["label", "--method", "binary"],
            "label: soft labels are shares of right roll-outs, which a binary search would bias; take",
        ),
        (
            ["label", "--lazy", "2", "--labels", "progress"],
            "label: progress labels are shares of right roll-outs, which lazy ones",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(study, tmp_path, capsys, words, message):
    task = ["--task", "countdown(numbers=3, n=2, split='train')"]
    given = {"label": [*task, "--policy", "lab:small"], "rl": [*task, "--model", "lab:small"]}
    rest = given.get(words[0]) or given.get(words[1]) or [str(study), "--model", "lab:small", "--share", "0.3"]
    assert run_app([*words, *rest, "--out", str(tmp_path / "out.jsonl")]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []


def test_the_lab_cannot_learn_from_foreign_text_and_says_so(tmp_path, capsys):
    lines = [
        {
            "problem": f"q{i}",
            "gold": "1",
            "question": f"How much is {i}?",
            "samples": [{"answer": "1", "correct": i % 2 == 0, "text": "One zebra."}],
        }
        for i in range(40)
    ]
    (tmp_path / "bank.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run_app(["import", str(tmp_path / "bank.jsonl"), "--out", str(tmp_path / "study")]) == 0
    for verb in ("outcome", "genrm"):
        assert run_app(["train", verb, str(tmp_path / "study"), "--out", str(tmp_path / "out")]) == 2
        assert "the model's tokenizer cannot spell" in capsys.readouterr().err


def test_labels_by_rollouts_train_a_process_model_and_a_leak_is_an_error(study, tmp_path, capsys):
    labels = tmp_path / "labels.jsonl"
    task = "countdown(numbers=3, n=4, split='train', seed=5)"
    made = ["label", "--task", task, "--policy", "lab:small", "--out", str(labels), "--chains", "2", "--rollouts", "2"]
    assert run_app(made) == 0
    words = ["train", "process", str(study), "--labels", str(labels), "--model", "lab:small", "--share", "0.3", "--out"]
    assert run_app([*words, str(tmp_path / "out")]) == 0
    leaky = tmp_path / "leaky.jsonl"
    assert run_app(["label", "--task", "countdown(numbers=3, n=24, split='train')", *made[3:6], str(leaky), *made[7:]]) == 0
    capsys.readouterr()
    leaking = [word if word != str(labels) else str(leaky) for word in words]
    assert run_app([*leaking, str(tmp_path / "leak")]) == 2
    assert "is both to be trained and to be evaluated on" in capsys.readouterr().err
    assert not (tmp_path / "leak").exists()


def test_studies_become_examples_for_other_trainers(study, tmp_path, capsys):
    assert run_app(["export", str(study), str(tmp_path / "sft.jsonl"), "--as", "prompt_completion", "--side", "train"]) == 0
    assert run_app(["export", str(study), str(tmp_path / "pairs.jsonl"), "--as", "preference", "--most", "3"]) == 0
    assert all(sample.correct for sample in read(tmp_path / "sft.jsonl"))
    assert all(pair.chosen.correct and not pair.rejected.correct for pair in read_pairs(tmp_path / "pairs.jsonl"))


def test_a_policy_is_reinforced(tmp_path, capsys):
    task = "countdown(numbers=3, n=8, split='train')"
    words = ["train", "rl", "--task", task, "--model", "lab:small", "--steps", "2", "--prompts", "4", "--group", "4", "--json"]
    assert run_app([*words, "--out", str(tmp_path / "out")]) == 0
    steps = [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines()]
    assert steps == [1, 2]
    assert run_app(["solve", "countdown 4 7 8 make 20", "--policy", f"lab:{tmp_path / 'out'}"]) == 0
