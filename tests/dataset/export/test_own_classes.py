"""What is exported, read by the trainers' own code: every setting is known to it, and the answers alone are learnt.

Each trainer stands in an environment of its own, in a folder that `ASYNCGEN_TRAINERS` names; `CONTRIBUTING.md` tells
how to make them. None needs a GPU. LLaMA-Factory and mlx-lm also train a tiny random model.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    MakeRun = Callable[..., Any]

# The fixtures' module cannot be imported by its name, as tests are not a package.
_SPEC = importlib.util.spec_from_file_location("exported_for_trainers", Path(__file__).with_name("test_trainers.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
exports = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(exports)

pytestmark = [pytest.mark.trainers, pytest.mark.slow, pytest.mark.timeout(600)]

TALKS = (
    'name = "talks"\n[grid]\ncity = ["Brussels", "Paris", "Berlin", "Rome"]\n[prompt]\nuser = "Talk of {city}."\n'
    '[answer]\nformat = "json"\nmessages = "turns"\n[generate]\nrepeats = 3\n[dataset]\nvalidation = 0.25\n'
)
TEXTS = '[dataset]\nformat = "completion"\nvalidation = 0.25\n'

# Each prints JSON: the settings that the trainer does not know, and the texts that it learns, a row each.
AXOLOTL = """
import json, yaml
from axolotl.prompt_strategies import load
from axolotl.prompt_strategies.dpo import load as load_pairs
from axolotl.utils.config import validate_config
from axolotl.utils.dict import DictDefault
from axolotl.utils.schemas.config import AxolotlInputConfig
from datasets import load_dataset
from transformers import AutoTokenizer
given = yaml.safe_load(open("axolotl.yaml"))
gpu = {"bf16": True, "n_gpu": 1, "compute_capability": "sm_90"}
config = validate_config(DictDefault(given), gpu, {"torch_version": "2.13.0"})
tokenizer = AutoTokenizer.from_pretrained(config.base_model)
told = {"unknown": sorted(set(given) - set(AxolotlInputConfig.model_fields))}
for name, key in (("learnt", "datasets"), ("validation", "test_datasets")):
    entry = config[key][0]
    rows = load_dataset("json", data_files=entry.path, split=entry.split)
    if config.rl:
        found = load_pairs(entry.type, config, dataset_idx=0)
        reader = found[0] if isinstance(found, tuple) else found
        rows = [reader(row, tokenizer=tokenizer) for row in rows]
        told[name] = [[row["chosen"], row["rejected"]] for row in rows]
    else:
        own = not isinstance(entry.type, str)  # as in axolotl/utils/data/wrappers.py
        kind, settings = ("user_defined", entry.type.to_dict()) if own else (entry.type, DictDefault(entry))
        reader = load(kind, tokenizer, config, settings)
        labels = [[each for each in reader.tokenize_prompt(row)["labels"] if each != -100] for row in rows]
        told[name] = [tokenizer.decode(each) for each in labels]
print(json.dumps(told))
"""
LLAMA_FACTORY = """
import importlib.machinery, json, sys, types
import peft, transformers, trl
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer
for name in ("torchaudio", "torchvision", "av"):  # of pictures and sounds: imported, and not used here
    try:
        __import__(name)
    except ImportError:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
from llamafactory.train.tuner import run_exp
sys.argv = ["train", "llama-factory.yaml"]
model, data, training, finetuning, _ = get_train_args()  # refuses what it does not know
loaded = load_tokenizer(model)
template = get_template_and_fix_tokenizer(loaded["tokenizer"], data)
stage = "rm" if finetuning.stage == "dpo" else finetuning.stage
found = get_dataset(template, model, data, training, stage=stage, **loaded)
def texts(rows, name):
    return [loaded["tokenizer"].decode([each for each in row[name] if each != -100]) for row in rows]
told = {"unknown": []}
for name, key in (("learnt", "train_dataset"), ("validation", "eval_dataset")):
    if stage == "rm":
        told[name] = list(zip(texts(found[key], "chosen_labels"), texts(found[key], "rejected_labels")))
    else:
        told[name] = texts(found[key], "labels")
if stage == "sft":  # the TRL that it asks for cannot import its DPO trainer beside the transformers that it takes
    run_exp()
print(json.dumps(told))
"""
MLX = """
import json, subprocess, sys, types, yaml
from mlx_lm.lora import CONFIG_DEFAULTS, yaml_loader
from mlx_lm.tuner.datasets import load_dataset
from transformers import AutoTokenizer
given = yaml.load(open("mlx.yaml"), yaml_loader)
settings = types.SimpleNamespace(**CONFIG_DEFAULTS | given)
tokenizer = AutoTokenizer.from_pretrained(settings.model)
train, valid, _ = load_dataset(settings, tokenizer)
def texts(rows):
    found = [rows.process(rows[place]) for place in range(len(rows))]
    return [tokenizer.decode(tokens[offset:]) for tokens, offset in found]
told = {"unknown": sorted(set(given) - set(CONFIG_DEFAULTS)), "learnt": texts(train), "validation": texts(valid)}
subprocess.run([sys.executable, "-m", "mlx_lm", "lora", "--config", "mlx.yaml"], check=True, stdout=sys.stderr)
print(json.dumps(told))
"""
UNSLOTH = """
import json
from unsloth_cli.config import load_config
read = load_config("unsloth.yaml")  # refuses what it does not know
rows = [json.loads(line) for line in open(read.data.local_dataset[0])]
assert read.training.train_on_completions and read.data.format_type == "chatml"
print(json.dumps({"unknown": [], "rows": len(rows)}))
"""
TINKER = """
import importlib.util, json, pathlib, sys
from tinker_cookbook import model_info
from transformers import AutoTokenizer
spec = importlib.util.spec_from_file_location("train", "train.py")
script = sys.modules["train"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
model_info.get_recommended_renderer_name = lambda name: "role_colon"  # it knows no random models
config = script.configured(pathlib.Path())
tokenizer = AutoTokenizer.from_pretrained(config.model_name)
def texts(rows):
    found = []
    for place in range(len(rows)):
        for datum in rows.get_batch(place):
            target, weight = (datum.loss_fn_inputs[name].tolist() for name in ("target_tokens", "weights"))
            found.append(tokenizer.decode([token for token, each in zip(target, weight) if each > 0]))
    return found
train, valid = config.dataset_builder()
print(json.dumps({"unknown": [], "learnt": texts(train), "validation": texts(valid)}))
"""
PROGRAMS = {
    "axolotl": AXOLOTL, "llama-factory": LLAMA_FACTORY, "mlx": MLX, "unsloth": UNSLOTH, "tinker": TINKER,
}  # fmt: skip


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with a tokenizer of bytes."""
    python = python_of("llama-factory")
    folder = tmp_path_factory.mktemp("random")
    subprocess.run([python, "-c", exports.MODEL, folder], check=True, env=environment(), timeout=300)
    return folder


def python_of(trainer: str) -> str:
    folder = os.environ.get("ASYNCGEN_TRAINERS")
    if not folder:
        pytest.skip("ASYNCGEN_TRAINERS names no folder of trainers")
    python = Path(folder) / trainer / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{trainer} is not installed: there is no {python}")
    return str(python)


def environment() -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1", "CUDA_VISIBLE_DEVICES": ""}


def read_by(trainer: str, folder: Path) -> dict[str, Any]:
    command = [python_of(trainer), "-c", PROGRAMS[trainer]]
    ran = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=500
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    assert told["unknown"] == []
    return told


def bare(text: str) -> str:
    """Without the marks of the random model's chat template, and tinker's of the next turn."""
    return re.sub(r"</?s>|\n\nUser:?", "", text).strip()


def exported(made: Any, folder: Path, trainer: str, model: Path) -> tuple[list[Any], list[Any]]:
    """Export for the trainer; our own samples of both sides."""
    exports.prepare(made)
    exports.export(made, folder, trainer, str(model))
    train, validation = (exports.lines(made.path / f"{name}.jsonl") for name in ("train", "validation"))
    return train, validation


@pytest.mark.parametrize("trainer", ["axolotl", "llama-factory", "mlx", "tinker"])
def test_its_own_reader_learns_the_answers_alone(
    make_run: MakeRun, tmp_path: Path, random_model: Path, trainer: str
) -> None:
    python_of(trainer)
    made = make_run(exports.VALIDATED).fill()
    sides = exported(made, tmp_path / "out", trainer, random_model)
    told = read_by(trainer, tmp_path / "out")
    for side, name in zip(sides, ("learnt", "validation"), strict=True):
        found = sorted(map(bare, told[name]))
        want = sorted(row["messages"][-1]["content"] for row in side)
        if trainer == "tinker":  # an epoch leaves out what does not fill a batch
            assert len(found) > len(want) - 8
            want = [each for each in want if each in found]
        assert found == want


@pytest.mark.parametrize("trainer", ["axolotl", "llama-factory", "mlx", "tinker"])
def test_its_own_reader_learns_every_answer_of_a_conversation(
    make_run: MakeRun, tmp_path: Path, random_model: Path, trainer: str
) -> None:
    python_of(trainer)
    made = make_run(job=TALKS)
    answered = {"role": "assistant", "content": "Say B"}

    def talk(record: Any) -> Any:
        asked = {"role": "user", "content": f"Ask for {record.variables['city']}"}
        last = {"role": "assistant", "content": f"Say {record.index}."}
        return msgspec.structs.replace(record, completion=json.dumps({"turns": [asked, answered, asked, last]}))

    made.fill(talk)
    train, _ = exported(made, tmp_path / "out", trainer, random_model)
    whole = "".join(map(bare, read_by(trainer, tmp_path / "out")["learnt"]))
    assert "Ask" not in whole
    last = sum(row["messages"][-1]["content"] in whole for row in train)
    assert whole.count("Say B") == last >= 8
    assert last == len(train) or trainer == "tinker", "but for what does not fill its batch"


@pytest.mark.parametrize("trainer", ["axolotl", "llama-factory"])
def test_its_own_reader_finds_the_better_and_the_worse_answer(
    make_run: MakeRun, tmp_path: Path, random_model: Path, trainer: str
) -> None:
    python_of(trainer)
    made = make_run(exports.PAIRS, job=exports.PAIRS_JOB).fill()
    sides = exported(made, tmp_path / "out", trainer, random_model)
    told = read_by(trainer, tmp_path / "out")
    for side, name in zip(sides, ("learnt", "validation"), strict=True):
        found = sorted([bare(better), bare(worse)] for better, worse in told[name])
        want = [[row[each][0]["content"] for each in ("preferred_output", "non_preferred_output")] for row in side]
        assert found == sorted(want)


def test_axolotl_learns_the_completions_of_texts_alone(make_run: MakeRun, tmp_path: Path, random_model: Path) -> None:
    python_of("axolotl")
    train, _ = exported(make_run(TEXTS).fill(), tmp_path / "out", "axolotl", random_model)
    found = read_by("axolotl", tmp_path / "out")["learnt"]
    assert sorted(map(bare, found)) == sorted(row["completion"].strip() for row in train)


def test_unsloth_takes_the_configuration_and_would_train(make_run: MakeRun, tmp_path: Path) -> None:
    python = python_of("unsloth")
    made = make_run(exports.VALIDATED).fill()
    train, _ = exported(made, tmp_path / "out", "unsloth", Path("org/model"))
    assert read_by("unsloth", tmp_path / "out")["rows"] == len(train)
    command = [str(Path(python).with_name("unsloth")), "train", "-c", "unsloth.yaml", "--dry-run"]
    subprocess.run(command, cwd=tmp_path / "out", env=environment(), check=True, capture_output=True, timeout=100)
