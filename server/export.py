"""The finished adapter as a folder in PEFT's format: it loads with `PeftModel.from_pretrained(base, folder)`."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.numpy import save_file

from federation.adapter import Adapter
from federation.canonical import Value
from federation.errors import StoreError

PREFIX = "base_model.model."


def export_adapter(
    folder: Path,
    adapter: Adapter,
    *,
    base_model: str,
    rank: int,
    alpha: float,
    origin: Mapping[str, Value] | None = None,
) -> None:
    """Write adapter_config.json and adapter_model.safetensors, and origin.json if the adapter's origin is given.

    The modules are named one by one, as they are in the adapter: a suffix such as "q_proj" would catch the vision tower
    as well. `origin` is public: run, plan digest, sites and their epsilons. Nothing is left behind if a write fails.
    Raises: StoreError `output-exists` if there is something in `folder`.
    """
    if folder.exists() and any(folder.iterdir()):
        raise StoreError("output-exists", "the export folder is not empty", hint="name a new folder")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        save_file(
            {PREFIX + name: array for name, array in adapter.arrays.items()},
            part / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )
        _write_json(part / "adapter_config.json", peft_config(adapter, base_model=base_model, rank=rank, alpha=alpha))
        if origin is not None:
            _write_json(part / "origin.json", dict(origin) | {"adapter_digest": adapter.digest()})
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def peft_config(adapter: Adapter, *, base_model: str, rank: int, alpha: float) -> dict[str, object]:
    """The fields of peft's LoraConfig that an adapter of plain `Linear` leaves needs; the rest keep their defaults."""
    modules = sorted({name.rsplit(".lora_", 1)[0] for name in adapter.arrays})
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
        "target_modules": modules,
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
