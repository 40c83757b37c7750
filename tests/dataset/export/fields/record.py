"""Record anew which fields each trainer's configuration has: `python tests/dataset/export/fields/record.py PACKAGE...`

PACKAGE is a wheel, or a folder into which one was unpacked. The sources are read, not run, so that neither a GPU nor a
package's own dependencies are needed; docs/trainers.md has the command.
"""

from __future__ import annotations

import ast
import json
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
# What is read of each: modules, and the classes of which the annotated fields are names of the configuration.
SOURCES = {
    "trl": {
        "trl/trainer/base_config.py": ["_BaseConfig"],
        "trl/trainer/sft_config.py": ["SFTConfig"],
        "trl/trainer/dpo_config.py": ["DPOConfig"],
    },
    "transformers": {"transformers/training_args.py": ["TrainingArguments"]},
    "peft": {"peft/tuners/lora/config.py": ["LoraConfig"], "peft/config.py": ["PeftConfig"]},
    "axolotl": {
        "axolotl/utils/schemas/config.py": ["AxolotlInputConfig"],
        "axolotl/utils/schemas/datasets.py": [
            "SFTDataset",
            "DPODataset",
            "UserDefinedPrompterType",
            "UserDefinedDPOType",
        ],
        "axolotl/utils/schemas/training.py": ["HyperparametersConfig", "LrGroup"],
        "axolotl/utils/schemas/peft.py": ["LoraConfig", "PeftConfig"],
        "axolotl/utils/schemas/model.py": ["ModelInputConfig", "ModelOutputConfig"],
    },
    "unsloth": {"unsloth_cli/config.py": ["Config", "DataConfig", "TrainingConfig", "LoraConfig"]},
    "llamafactory": {
        "llamafactory/hparams/data_args.py": ["DataArguments"],
        "llamafactory/hparams/finetuning_args.py": ["LoraArguments", "RLHFArguments", "FinetuningArguments"],
        "llamafactory/hparams/model_args.py": ["BaseModelArguments"],
        "llamafactory/data/parser.py": ["DatasetAttr"],
    },
    "mlx_lm": {"mlx_lm/lora.py": ["CONFIG_DEFAULTS"]},
    "tinker_cookbook": {
        "tinker_cookbook/supervised/train.py": ["Config"],
        "tinker_cookbook/supervised/types.py": ["ChatDatasetBuilderCommonConfig"],
        "tinker_cookbook/supervised/data.py": ["FromConversationFileBuilder"],
    },
}


def read(package: Path, module: str) -> str:
    if package.is_dir():
        return (package / module).read_text(encoding="utf-8")
    with zipfile.ZipFile(package) as wheel:
        return wheel.read(module).decode()


def fields_of(source: str, name: str) -> dict[str, str]:
    """Annotated fields of a class, or the keys of a dictionary of that name, with what stands for their types."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return {
                each.target.id: ast.unparse(each.annotation)
                for each in node.body
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
            }
        if isinstance(node, ast.Assign) and name in {each.id for each in node.targets if isinstance(each, ast.Name)}:
            return {key: type(value).__name__ for key, value in ast.literal_eval(node.value).items()}
    raise SystemExit(f"there is no {name}: the package was rearranged, and SOURCES has to follow")


def holds(package: Path, module: str) -> bool:
    if package.is_dir():
        return (package / module).exists()
    return module in zipfile.ZipFile(package).namelist()


def version(package: Path, name: str) -> str:
    if not package.is_dir():
        return package.name.split("-")[1]
    return next((path.name.split("-")[1] for path in package.glob(f"{name}-*.dist-info")), "").removesuffix(".dist")


def main(packages: list[Path]) -> None:
    for name, modules in SOURCES.items():
        package = next((each for each in packages if holds(each, next(iter(modules)))), None)
        if package is None:
            sys.stderr.write(f"{name}: none of these packages; its record stays\n")
            continue
        classes = {
            each: fields_of(read(package, module), each) for module, wanted in modules.items() for each in wanted
        }
        found = {"version": version(package, name), "classes": classes}
        (HERE / f"{name}.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        sys.stderr.write(f"{name} {found['version']}: {sum(map(len, classes.values()))} fields\n")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
