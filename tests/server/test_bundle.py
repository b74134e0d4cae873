"""The offline bundle: what is in it is named by hash, and what was changed is neither checked nor installed."""

import hashlib
import subprocess
import sys
import zipfile

import pytest

from federation.errors import FedError
from server import bundle


def wheel(folder, name="tiny", text="value = 7\n"):
    """The smallest wheel that pip takes."""
    info = f"{name}-1.0.dist-info"
    meta = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as made:
        made.writestr(f"{name}.py", text)
        made.writestr(f"{info}/METADATA", meta)
        made.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "model"


@pytest.fixture
def made(tmp_path, model):
    return bundle.make(tmp_path / "bundle", wheel, model=model)


def code(call, *given, **named):
    with pytest.raises(FedError) as caught:
        call(*given, **named)
    return caught.value.code


def install(made, target, digest, **environment):
    return subprocess.run(
        ["sh", str(made.path / "install.sh"), str(target), digest], capture_output=True, text=True,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"} | environment,
    )  # fmt: skip


def test_a_bundle_names_every_file_by_hash_and_pip_is_given_those_hashes(made):
    listed = dict(reversed(line.split("  ")) for line in (made.path / "SHA256SUMS").read_text().splitlines())
    [requirement] = (made.path / "requirements.txt").read_text().splitlines()

    assert set(listed) == {
        "base/config.json", "base/model.safetensors", "install.sh", "requirements.txt",
        "wheels/tiny-1.0-py3-none-any.whl",
    }  # fmt: skip
    assert requirement == f"tiny==1.0 --hash=sha256:{listed['wheels/tiny-1.0-py3-none-any.whl']}"
    assert made.digest == hashlib.sha256((made.path / "SHA256SUMS").read_bytes()).hexdigest()
    assert bundle.check(made.path, made.digest) == made


@pytest.mark.parametrize("name", ["wheels/tiny-1.0-py3-none-any.whl", "base/model.safetensors", "install.sh"])
def test_one_changed_byte_a_missing_file_and_one_too_many_are_named(made, name):
    path = made.path / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(FedError, match=f"{name} was changed"):
        bundle.check(made.path)
    path.unlink()
    with pytest.raises(FedError, match=f"{name} is missing"):
        bundle.check(made.path)
    path.write_bytes(whole)
    (made.path / "wheels" / "evil-1.0-py3-none-any.whl").write_bytes(b"x")
    with pytest.raises(FedError, match="is not listed"):
        bundle.check(made.path)


def test_a_bundle_whose_list_was_rewritten_has_another_digest(made):
    (made.path / "base" / "extra.json").write_text("{}")
    lines = [f"{bundle._sha256(made.path / name)}  {name}\n" for name in bundle._files(made.path)]
    (made.path / "SHA256SUMS").write_text("".join(lines))

    assert bundle.check(made.path).digest != made.digest
    assert code(bundle.check, made.path, made.digest) == "bundle-differs"


def test_a_wheel_is_made_of_the_source_and_not_of_an_old_build(tmp_path):
    source = tmp_path / "source"
    for name in ("federation/errors.py", "federation/__pycache__/errors.pyc", "build/lib/gone.py", "out/report.html"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("x")
    (source / "pyproject.toml").write_text("x")

    copied = bundle.copy_source(source, tmp_path / "copy")
    assert sorted(path.relative_to(copied).as_posix() for path in copied.rglob("*") if path.is_file()) == [
        "federation/errors.py", "pyproject.toml",
    ]  # fmt: skip


def test_a_link_is_no_file_of_a_bundle(made):
    (made.path / "base" / "config.json").unlink()
    (made.path / "base" / "config.json").symlink_to("/etc/passwd")

    assert code(bundle.check, made.path) == "bundle-differs"


def test_nothing_is_left_of_a_bundle_that_could_not_be_made(tmp_path, model):
    def fails(wheels):
        wheel(wheels)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bundle.make(tmp_path / "bundle", fails, model=model)
    assert code(bundle.make, tmp_path / "bundle", lambda wheels: None, model=None) == "bundle-failed"
    assert code(bundle.make, tmp_path / "bundle", lambda w: (w / "a.tar.gz").touch(), model=None) == "bundle-failed"
    assert code(bundle.make, model, wheel, model=None) == "output-exists"
    assert code(bundle.make, tmp_path / "bundle", wheel, model=tmp_path) == "model-absent"
    assert code(bundle.with_pip, tmp_path) == "bundle-failed"

    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_script_installs_nothing_under_another_digest_or_after_a_change(made, tmp_path):
    other = install(made, tmp_path / "target", "0" * 64)
    assert other.returncode == 18 and "not the bundle whose digest you were given" in other.stderr

    path = made.path / "base" / "config.json"
    path.write_text("[]")
    changed = install(made, tmp_path / "target", made.digest)
    assert changed.returncode == 18 and "base/config.json" in changed.stderr and "was changed" in changed.stderr
    assert not (tmp_path / "target").exists()


@pytest.mark.slow
def test_the_script_installs_without_an_index(made, tmp_path):
    there = tmp_path / "path" / "tiny-1.0.dist-info"  # a caller's PYTHONPATH on which it seems to be installed already
    there.mkdir(parents=True)
    (there / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    done = install(made, tmp_path / "target", made.digest, PYTHONPATH=str(there.parent))

    assert done.returncode == 0, done.stderr
    python = tmp_path / "target" / "bin" / "python"
    assert subprocess.run([python, "-c", "import tiny; print(tiny.value)"], capture_output=True).stdout == b"7\n"
