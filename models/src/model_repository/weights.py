"""Finds and reads the published files of an encoder inside an installed package."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from model_repository.card import CardError, EncoderSource
from model_repository.encoder_graph import EncoderShape


def find_folder(source: EncoderSource) -> Path:
    """Return the folder with the published files, without importing the package; raise CardError if it is missing."""
    spec = find_spec(source.package)
    if spec is None or spec.origin is None:
        raise CardError(f"package {source.package}, which carries the weights, is not installed")
    return Path(spec.origin).parent / source.folder


def read_config(folder: Path) -> dict[str, Any]:
    """Return the published `config.json`; raise CardError unless it is a BERT with GELU, all that is written here."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    if config["model_type"] != "bert" or config["hidden_act"] != "gelu":
        raise CardError(f"{folder}: only BERT encoders with GELU are supported")
    return config


def encoder_shape(config: dict[str, Any]) -> EncoderShape:
    """Return the sizes that a published `config.json` states."""
    return EncoderShape(
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["hidden_size"],
        layer_norm_epsilon=config["layer_norm_eps"],
    )


def read_weights(folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Return the tensors of `model.safetensors` by name."""
    tensors: dict[str, npt.NDArray[np.float32]] = load_file(folder / "model.safetensors")
    return tensors


def read_tokenizer(folder: Path) -> str:
    """Return `tokenizer.json` without its padding and truncation (published: always exactly 128 tokens).

    Whoever encodes truncates to the manifest's `max_tokens` and pads to the longest text of the batch.
    """
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    return json.dumps({**tokenizer, "padding": None, "truncation": None}, ensure_ascii=False)
