"""A real ONNX model, written by hand: one Gather, so that every word has the label that its vocabulary entry says."""

import hashlib
import json
import struct
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from client.imaging.identifiers import Identifiers
from client.imaging.report_text import scrub
from client.imaging.tagger import OnnxTagger, placeholder_of, tagger_at
from federation.errors import SettingsError

WORDS = {"[UNK]": 0, "quixano": 1, "toboso": 2, "effusion": 0}
LABELS = ["O", "B-PER", "B-LOC"]


def number(field: int, value: int) -> bytes:
    out, value = bytearray([field << 3]), value
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def block(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | 2]) + number(0, len(data))[1:] + data


def value_info(name: str, kind: int, dims: list[str]) -> bytes:
    shape = b"".join(block(1, block(2, dim.encode())) for dim in dims)
    return block(1, name.encode()) + block(2, block(1, number(1, kind) + block(2, shape)))


def model() -> bytes:
    """ONNX protobuf: logits = Gather(table, input_ids). https://github.com/onnx/onnx/blob/main/onnx/onnx.proto"""
    table = [[2.0 * (label == word) for label in range(3)] for word in range(3)]
    data = b"".join(struct.pack("<f", each) for row in table for each in row)
    weights = number(1, 3) + number(1, 3) + number(2, 1) + block(8, b"table") + block(9, data)
    node = block(1, b"table") + block(1, b"input_ids") + block(2, b"logits") + block(4, b"Gather")
    graph = block(1, node) + block(2, b"g") + block(5, weights)
    graph += block(11, value_info("input_ids", 7, ["b", "t"])) + block(12, value_info("logits", 1, ["b", "t", "l"]))
    return number(1, 8) + block(7, graph) + block(8, number(2, 13))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(model())
    (tmp_path / "config.json").write_text(json.dumps({"id2label": dict(enumerate(LABELS))}))
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "quixano": 1, "toboso": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_what_the_sites_own_model_marks_is_masked(folder: Path) -> None:
    tagger = OnnxTagger.open(folder, hashlib.sha256(model()).hexdigest())
    text = "effusion seen by quixano\nfilms from toboso, small effusion"

    assert scrub(text, Identifiers(), tagger=tagger) == "effusion seen by [NAME]\nfilms from [PLACE], small effusion"


def test_another_model_than_the_pinned_one_is_refused(folder: Path) -> None:
    for broken in (folder, folder / "absent"):
        with pytest.raises(SettingsError) as refused:
            OnnxTagger.open(broken, "0" * 64)
        assert str(folder) not in str(refused.value) + refused.value.hint


def test_without_a_folder_there_is_no_tagger() -> None:
    assert tagger_at("", "") is None


@pytest.mark.parametrize(
    ("label", "placeholder"),
    [("I-PER", "[NAME]"), ("HOSPITAL", "[PLACE]"), ("B-DATE", "[DATE]"), ("O", None), ("MISC", None), ("XYZ", "[ID]")],
)
def test_labels_that_nobody_knows_are_identifiers(label: str, placeholder: str | None) -> None:
    assert placeholder_of(label) == placeholder
