"""The command line as a person meets it: help, results, messages, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from probe_sae.cli import main
from probe_sae.interop import FORMATS, WRITABLE
from probe_sae.shipped import shipped
from probe_sae.store import open_store

COMMANDS = [
    "demo",
    "run",
    "sites",
    "check",
    "steer",
    "capture",
    "train",
    "evaluate",
    "analyse",
    "report",
    "import",
    "export",
    "push",
    "show",
    "list",
    "guide",
    "store info",
    "store verify",
    "store shuffle",
    "store merge",
]


Done = subprocess.CompletedProcess[str]
STEER = "steer bundled:code-lm {root}/sae --feature 1 --prompt a"
Call = Callable[..., Done]


def call(*arguments: str | Path, cwd: Path | None = None) -> Done:
    """Run `probe-sae` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "probe_sae", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "100"},
    )


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """`call` in this process, which has imported torch already: where only what is said matters."""

    def run(*arguments: str | Path, cwd: Path | None = None) -> Done:
        words = ["probe-sae", *map(str, arguments)]
        capfd.readouterr()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "argv", words)
            patched.setenv("COLUMNS", "100")
            patched.chdir(cwd or Path.cwd())
            with pytest.raises(SystemExit) as left:
                main()
        said = capfd.readouterr()
        return Done(words, int(left.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small store, dictionary, analysis and report, made by the commands."""
    root = tmp_path_factory.mktemp("cli")
    site = "blocks.0.hook_resid_post"  # TransformerLens' name of blocks.0.resid_post
    steps = [
        f"capture bundled:code-lm stdlib --site {site} --rows 3000 --max-length 64 --out store",
        f"train store --site {site} --arch topk --features 24 --k 4 --rows 20000 "
        "--set batch_size=1024 --out sae",
        "analyse sae store --host bundled:code-lm --dataset stdlib --out analysis",
        "report analysis --out report",
    ]
    for step in steps:
        done = call(*step.split(), "--json", cwd=root)
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)
    return root


def test_each_stage_left_its_folder(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}

    assert names >= {"store", "sae", "analysis", "report"}
    assert list(open_store(folder / "store").sites) == ["blocks.0.resid_post"]
    assert (folder / "report" / "index.html").is_file()


def test_evaluate_prints_each_metric_with_its_formula(folder: Path, ask: Call) -> None:
    arguments = ["evaluate", folder / "sae", folder / "store"]
    person, machine = ask(*arguments), ask(*arguments, "--json")

    found = json.loads(machine.stdout)
    assert found["metrics"]["l0"] == pytest.approx(4, abs=0.05)
    low, high = found["intervals"]["fraction_unexplained"]
    assert low <= found["metrics"]["fraction_unexplained"] <= high
    assert set(found["baselines"]) == {"mean", "pca", "random", "untrained"}
    assert "Sum of squared errors over sum of squared deviations" in person.stdout
    head = person.stdout.splitlines()[0].split()
    assert head == ["value", "95", "%", "interval", "mean", "untrained", "pca", "random"]


def test_a_dictionary_of_another_library_is_used_as_it_lies(folder: Path, ask: Call) -> None:
    ask("export", folder / "sae", "--format", "saelens", "--out", folder / "theirs")
    ask("import", folder / "theirs", "--out", folder / "imported")

    theirs, ours = (
        json.loads(ask("evaluate", folder / name, folder / "store", "--json").stdout)
        for name in ("theirs", "imported")
    )

    for name in ("fraction_unexplained", "l0", "cosine", "dead_fraction"):
        assert theirs["metrics"][name] == pytest.approx(ours["metrics"][name], rel=1e-6), name
    assert theirs["metrics"]["l0"] == pytest.approx(4, abs=0.05)
    untrained = theirs["baselines"]["untrained"]
    assert untrained["l0"] == pytest.approx(4, abs=0.5)
    assert theirs["metrics"]["fraction_unexplained"] < untrained["fraction_unexplained"] < 1.5
    done = ask("import", folder / "sae", "--out", folder / "again")
    assert (done.returncode, "ours already" in done.stderr) == (2, True)


def test_an_analysis_is_written_for_neuronpedia(folder: Path, ask: Call, tmp_path: Path) -> None:
    out = tmp_path / "batches"
    done = ask("export", folder / "analysis", "--format", "neuronpedia", "--out", out, "--json")

    assert json.loads(done.stdout)["files"] == ["batch-0.json", "probe_sae.json"]
    assert len(json.loads((out / "batch-0.json").read_text())["features"]) == 24


def test_evaluate_leaves_baselines_and_intervals_out_when_told(folder: Path, ask: Call) -> None:
    arguments = ["evaluate", folder / "sae", folder / "store", "--no-baselines", "--resamples", "0"]

    found = json.loads(ask(*arguments, "--json").stdout)

    assert found["baselines"] == found["intervals"] == {}


def test_store_info_and_verify(folder: Path, ask: Call) -> None:
    info = json.loads(ask("store", "info", folder / "store", "--json").stdout)
    verify = ask("store", "verify", folder / "store")

    assert info["rows"] >= 3000
    assert info["provenance"]["host"]["name"] == "bundled:code-lm"
    assert (verify.returncode, verify.stdout.strip()[-21:]) == (0, "every byte as written")


def test_sites_lists_names_and_widths(ask: Call) -> None:
    done = ask("sites", "bundled:code-lm", "--json")
    sites = {site["name"]: site for site in json.loads(done.stdout)["sites"]}

    assert sites["blocks.1.resid_post"]["path"] == "transformer.h.1"
    assert isinstance(sites["blocks.1.resid_post"]["width"], int)


def test_check_proves_a_host_and_says_what_it_looked_at() -> None:
    result = call("check", "bundled:code-lm")

    assert result.returncode == 0, result.stderr
    assert "blocks.{i}: resid_pre + attn_out == resid_mid   max error 0   4 places" in result.stdout
    assert result.stdout.splitlines()[-1] == "everything holds"


def test_check_of_a_wrong_map_says_what_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Call
) -> None:
    """A family of the user's own, whose attention and MLP outputs are mixed up."""
    text = shipped("hooks/gpt2.toml").read_text("utf-8")
    attention, mlp = '{ at = "{block}.attn", io = "out" }', '{ at = "{block}.mlp", io = "out" }'
    assert attention in text
    assert mlp in text
    text = text.replace(attention, "?").replace(mlp, attention).replace("?", mlp)
    (tmp_path / "gpt2.toml").write_text(text, encoding="utf-8")

    monkeypatch.setenv("PROBE_SAE_HOOKS", str(tmp_path))

    result = ask("check", "bundled:code-lm")

    assert result.returncode == 2
    assert "NO  blocks.{i}: resid_pre + attn_out == resid_mid" in result.stdout
    assert "blocks.0.mlp_out does not see a change of blocks.0.resid_mid" in result.stdout
    assert "Traceback" not in result.stderr


def test_check_proves_the_maps_themselves(ask: Call) -> None:
    result = ask("check", "--maps", "--family", "gpt2", "--json")

    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["holds"]
    assert [len(proofs) for proofs in summary["families"].values()] == [2]


def test_steering_writes_the_prompt_twice(folder: Path, ask: Call) -> None:
    arguments = ["steer", "bundled:code-lm", folder / "sae", "--prompt", "import ", "--tokens", "8"]
    result = ask(*arguments, "--feature", "3", "--scale", "60", "--json")
    same = ask(*arguments, "--feature", "3", "--scale", "0", "--json")

    assert result.returncode == 0, result.stderr
    written = json.loads(result.stdout)
    assert written["prompt"] == "import "
    assert written["original"]
    assert written["original"] != written["steered"]
    assert json.loads(same.stdout)["steered"] == written["original"]


@pytest.mark.parametrize("kind", ["hosts", "datasets", "archs", "hooks", "formats"])
def test_list_lists(kind: str, ask: Call) -> None:
    assert json.loads(ask("list", kind, "--json").stdout)[kind]


def test_a_format_says_which_way_it_goes(ask: Call) -> None:
    ways = json.loads(ask("list", "formats", "--json").stdout)["formats"]

    assert {ways[name] for name in WRITABLE if name in FORMATS} == {"import and export"}
    assert {ways[name] for name in FORMATS if name not in WRITABLE} == {"import"}
    assert ways["neuronpedia"] == "export, of an analysis"


def test_every_guide_can_be_read(ask: Call) -> None:
    topics = json.loads(ask("guide", "--json").stdout)["topics"]

    assert {"jobs", "sites", "datasets", "files", "architectures"} <= set(topics)
    assert "# Jobs" in ask("guide", "jobs").stdout


def test_the_tutorial_is_shown_as_text_and_written_as_a_notebook(ask: Call, tmp_path: Path) -> None:
    notebook = tmp_path / "tutorial.ipynb"

    text = ask("guide", "tutorial").stdout
    written = ask("guide", "tutorial", "--out", str(notebook))

    assert "```python\nimport probe_sae as ps\n" in text
    assert written.returncode == 0
    assert json.loads(notebook.read_text())["nbformat"] == 4
    assert ask("guide", "tutorial", "--out", str(notebook)).returncode == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    done = call(*command.split(), "--help")

    assert done.returncode == 0
    assert "Example" in done.stdout


@pytest.mark.parametrize(
    ("name", "usual", "own"),
    [
        ("OMP_WAIT_POLICY", "passive", None),
        ("OMP_WAIT_POLICY", "passive", "active"),
        ("THP_MEM_ALLOC_ENABLE", "1", None),
        ("THP_MEM_ALLOC_ENABLE", "1", "0"),
    ],
)
def test_torch_is_set_up_unless_the_user_wants_otherwise(
    name: str, usual: str, own: str | None
) -> None:
    """The choice is made before torch is imported, which reads it then."""
    code = """
import os, sys
import probe_sae.cli
print("torch" in sys.modules)
name = sys.argv[1]
sys.argv = ["probe-sae", "--version"]
try:
    probe_sae.cli.main()
except SystemExit:
    print(os.environ[name])
"""
    environment = {n: v for n, v in os.environ.items() if n != name}
    environment |= {name: own} if own else {}

    done = subprocess.run(
        [sys.executable, "-P", "-c", code, name], capture_output=True, text=True, env=environment
    )

    first, *_, last = done.stdout.split()
    assert (first, last) == ("False", own or usual)


def test_the_version_is_printed() -> None:
    assert call("--version").stdout == "probe-sae 0.1.0\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("demo txt", "Near it: text"),
        ("nonsense", "No such command"),
        (f"{STEER} --scale nan", "scale is nan; expected a finite number"),
        (f"{STEER} --tokens 0", "tokens is 0; expected at least 1"),
        (f"{STEER} --temperature -1", "temperature is -1.0; expected"),
        (f"{STEER} --mode ablate --scale 4", "whatever the scale, which is 4: drop the scale"),
        ("sites bundled:code-ml", "there are bundled:code-lm"),
        ("check", "give a HOST, or --maps"),
        ("check --maps --family gpt3", "Near it: .*gpt2"),
        ("check python:torch.nn:Identity", "nobody knows what it takes"),
        ("steer bundled:code-lm nowhere --feature 1 --prompt a", "nowhere"),
        ("sites no/such-model", "no host 'no/such-model'"),
        (
            "capture bundled:code-lm stdlib --site blocks.0.resid_pots --out {new}",
            "Near it: blocks.0.resid_post",
        ),
        ("capture bundled:code-lm nowhere.txt --site embed --out {new}", "no dataset"),
        ("capture bundled:code-lm {empty} --site embed --out {new}", "holds no text"),
        ("capture bundled:code-lm {binary} --site embed --out {new}", "no images"),
        ("capture bundled:code-lm stdlib --site embed --out {root}/store", "exists already"),
        ("train {root}/store --out {root}/sae", "exists already"),
        ("train {root}/store --features 8 --k 9 --out {new}", "between 1 and 8"),
        ("train {root}/store --arch topkk --out {new}", "Near it: topk"),
        ("train {root}/store --set lr=high --out {new}", "lr is 'high'; expected a number"),
        ("train {root}/store --set lr --out {new}", "expected key=value"),
        ("train {root}/store --track wanbd --out {new}", "Near it: wandb"),
        ("train {root}/store --k 2,x --out {new}", "--k 2,x: expected a number"),
        ("train {root}/store --k 2,2 --out {new}", "the same"),
        ("train {root}/store --arch transcoder --out {new}", "takes two sites"),
        ("train {root}/store --site embed --out {new}", "has no site 'embed'"),
        ("train {root}/sae --out {new}", "is no store"),
        ("train --out {new}", "takes a STORE, or --host"),
        ("train {root}/store --host bundled:code-lm --out {new}", "takes a STORE, or --host"),
        ("train --host bundled:code-lm --dataset stdlib --out {new}", "takes a STORE, or --host"),
        ("store shuffle {root}/sae --out {new}", "is no store"),
        ("store shuffle {root}/store --out {root}/sae", "exists already"),
        ("store merge {root}/store {root}/sae --out {new}", "is no store"),
        ("store merge {root}/store --site blocks.1.resid_post --out {new}", "has no site"),
        ("train {newer} --out {new}", "version 2; this probe_sae reads version 1"),
        ("evaluate {root}/sae {newer}", "Update probe_sae"),
        ("evaluate {root}/sae {root}/store --dataset stdlib", "without --host"),
        ("analyse {root}/store {root}/store --out {new}", "holds no dictionary"),
        ("report {root}/sae --out {new}", "is no analysis: it has no analysis.json"),
        ("show {root}/store", "holds no report"),
        ("run nowhere.toml", "cannot read"),
        ("list things", "there are hosts"),
        ("guide job", "Near it: jobs"),
    ],
)
def test_bad_input_is_a_clear_message_and_exit_code_2_and_nothing_is_written(
    folder: Path, tmp_path: Path, ask: Call, command: str, message: str
) -> None:
    import re
    import shutil

    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "a.bin").write_bytes(b"\0")
    shutil.copytree(folder / "store", tmp_path / "newer")
    manifest = tmp_path / "newer" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 2'))
    before = {path.name for path in (*tmp_path.iterdir(), *folder.iterdir())}
    places = {
        "root": folder,
        "new": tmp_path / "new",
        "empty": tmp_path / "empty.txt",
        "binary": tmp_path / "binary",
        "newer": tmp_path / "newer",
    }

    done = ask(*(word.format(**places) for word in command.split()), cwd=tmp_path)

    assert done.returncode == 2, done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert {path.name for path in (*tmp_path.iterdir(), *folder.iterdir())} == before


def test_a_torchvision_built_for_another_torch_is_said_to_be_so(tmp_path: Path) -> None:
    broken = tmp_path / "elsewhere" / "torchvision"
    broken.mkdir(parents=True)
    message = "operator torchvision::nms does not exist"
    (broken / "__init__.py").write_text(f"raise RuntimeError({message!r})")

    done = subprocess.run(
        [sys.executable, "-P", "-m", "probe_sae", "demo", "--out", "out"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(broken.parent)},
    )

    assert done.returncode == 2
    assert "does not work with torch" in done.stderr
    assert "pip install --upgrade torch torchvision" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("seconds", [3.0, 8.0, 14.0])
def test_ctrl_c_leaves_no_output_and_says_so(tmp_path: Path, seconds: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "probe_sae", "demo", "images", "--out", "out"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)

    # An interrupt inside an extension module's import makes Python end by the signal itself, which
    # every shell calls 130 too.
    assert process.returncode in (130, -signal.SIGINT), said
    assert "interrupted" in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
