"""What a person points at: a folder, a DICOMDIR, a zip; seen as files with names, whatever they lie in.

A zip is unpacked into the scratch folder and read like a folder of its name. It is checked before a byte is written,
and one bad member refuses the whole archive: a zip can lead out of its folder, grow a thousandfold, and hold zips.
"""

import errno
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath

from client.imaging.header import open_file, refusal
from client.imaging.profile import Limits
from client.imaging.scratch import private
from federation import durable
from federation.errors import DataError, DeidError

_MEMBERS_MAX = 1_000_000
_DEPTH_MAX = 2  # a zip, and a zip in it
_PARTS_MAX = 40
_NAME_BYTES_MAX = 255
_PATH_BYTES_MAX = 2048  # Linux takes 4096, of which the scratch folder needs some
_NOT_THE_ARCHIVE = (*durable.DISK_FULL, *durable.NOT_ALLOWED, errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # the machine
_COPY_BYTES = 1 << 20
_ELSEWHERE = "//reports"  # no name in a folder looks like this
_ROOM_LEFT_BYTES = 256 * 2**20
_MEDIA_DIRECTORY = b"1.2.840.10008.1.3.10"


class Source:
    """Files by their names in the folder, with `/` between the parts. Links are not followed."""

    def __init__(
        self, top: Path, limits: Limits, scratch: Path, *, reports: Path | None = None,
        rested: Collection[Path] | None = None,
    ) -> None:  # fmt: skip
        """`reports` is a folder of report files that lie elsewhere; with `rested`, these of them and no others.

        Raises: DataError folder-absent, folder-unreadable; DeidError for a zip that is refused.
        """
        self._limits, self._scratch = limits, scratch
        self._roots: dict[str, Path] = {}
        self._unpacked: set[str] = set()
        self._rested = rested
        self.refused: Counter[str] = Counter()
        """Reasons of archives, files and folders that could not be read at all."""
        self.on_refusal: Callable[[str, str, str], None] = lambda name, kind, code: None
        """Hears of each of them: its name, `archive` or `file`, the reason."""
        self.origin = Path(os.path.realpath(top))
        """Where it lies, whatever it is unpacked to."""
        self.top = self._opened(top)
        if self.origin.is_file() and self.top == self.origin.parent:  # a DICOMDIR stands for its folder
            self.origin = self.top
        if reports is not None:
            self._roots[_ELSEWHERE] = reports

    def names(self) -> Iterator[str]:
        """All regular files, in an order that depends on the names only. Every call walks again."""
        self.refused.clear()
        yield from self._below(self.top, "", 0)
        for prefix in [prefix for prefix in self._roots if prefix not in self._unpacked]:
            only = self._rested if prefix == _ELSEWHERE else None
            yield from self._below(self._roots[prefix], prefix + "/", 0, only)

    def at(self, name: str) -> Path:
        """Where the file of this name lies."""
        if self._roots:
            parts = name.split("/")
            for end in range(len(parts) - 1, 0, -1):
                prefix = "/".join(parts[:end])
                if prefix in self._roots:
                    return self._roots[prefix].joinpath(*parts[end:])
        return self.top / name

    def archives(self) -> list[str]:
        """The names of the archives that were unpacked."""
        return sorted(self._unpacked)

    def lacks(self, what: str, *, hint: str) -> DataError:
        """The error of a source without one such file. What may not be read is named: it may be all that there is."""
        if self.refused["unreadable"]:
            return DataError(
                "folder-unreadable",
                f"no {what} in the folder can be read, and some files or folders may not be",
                hint="run as a user who may read the whole folder",
            )
        return DataError("folder-empty", f"the folder has no {what}", hint=hint)

    def _opened(self, top: Path) -> Path:
        try:
            top = Path(os.path.realpath(top))  # the person may point at a link; those in the folder are not followed
            if top.is_dir():
                os.listdir(top)
                return top
            if not top.exists():
                raise DataError("folder-absent", "there is no such folder", hint="check the path")
            with open_file(top) as file:
                head = file.read(1024)
        except PermissionError:
            raise DataError(
                "folder-unreadable", "no permission to read the folder", hint="run as a user who may read it"
            ) from None
        except (OSError, DeidError):
            raise DataError("folder-absent", "this is no folder and no file", hint="check the path") from None
        if is_zip(head):
            return unpacked(top, self._scratch / "top", self._limits)
        if is_media_directory(head):
            return top.parent
        raise DataError(
            "folder-absent",
            "the file is neither a zip nor a DICOMDIR",
            hint="give the folder that holds the DICOM files and the reports",
        )

    def _below(self, folder: Path, prefix: str, depth: int, only: Collection[Path] | None = None) -> Iterator[str]:
        def unreadable(error: OSError) -> None:
            inside = Path(os.fsdecode(error.filename or folder)).relative_to(folder).as_posix()
            self._refuse(prefix.rstrip("/") if inside == "." else prefix + inside, "file", "unreadable")

        for place, folders, files in os.walk(folder, followlinks=False, onerror=unreadable):
            folders.sort()
            inside = Path(place).relative_to(folder).as_posix()
            before = prefix if inside == "." else f"{prefix}{inside}/"
            for name in sorted(files):
                path = Path(place, name)
                if only is not None and path not in only:
                    continue
                try:
                    if not stat.S_ISREG(path.lstat().st_mode):
                        continue
                    archive = self._is_archive(path)
                except PermissionError:
                    self._refuse(before + name, "file", "unreadable")
                    continue
                except (OSError, DeidError):
                    continue
                if archive:
                    yield from self._members(path, before + name, depth + 1)
                else:
                    yield before + name

    def _members(self, path: Path, name: str, depth: int) -> Iterator[str]:
        try:
            if name not in self._roots:
                if depth > _DEPTH_MAX:
                    raise refusal("limit-nesting", "archives are nested too deep")
                self._roots[name] = unpacked(path, self._scratch / f"zip-{len(self._roots)}", self._limits)
                self._unpacked.add(name)
        except DeidError as error:
            self._refuse(name, "archive", error.code)
            return
        yield from self._below(self._roots[name], name + "/", depth)

    def _is_archive(self, path: Path) -> bool:
        with open_file(path) as file:
            return is_zip(file.read(4))

    def _refuse(self, name: str, kind: str, code: str) -> None:
        self.refused[code] += 1
        self.on_refusal(name, kind, code)


def is_zip(head: bytes) -> bool:
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06")


def is_media_directory(head: bytes) -> bool:
    """DICOMDIR by its media storage class (PS3.10 section 8.6), not by its name: it lists files and holds no image."""
    return head[128:132] == b"DICM" and _MEDIA_DIRECTORY in head[:1024]


def unpacked(path: Path, folder: Path, limits: Limits) -> Path:
    """The archive's files in this new folder.

    Guarantees: nothing is written outside of the folder; no link is made; neither one file nor all together grow past
    the limits, whatever the archive says about itself; an archive that is refused leaves nothing.

    Raises: DeidError archive-refused, limit-size; OSError when the disk is full or may not be written to.
    """
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            members = _checked(archive, os.fstat(file.fileno()).st_size, limits)
            needed = sum(member.file_size for _, member in members)
            private(folder.parent)
            folder.mkdir(mode=0o700)
            if shutil.disk_usage(folder).free < needed + _ROOM_LEFT_BYTES:
                raise refusal("limit-size", "too little free disk to unpack the archive")
            for place, member in members:
                _extract(archive, member, folder / place, limits)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
        raise refusal("archive-refused", "the archive is damaged, encrypted or packed in an unknown way") from None
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        if error.errno in _NOT_THE_ARCHIVE:
            raise
        raise refusal("archive-refused", "the archive does not read, or a name in it cannot be a file here") from None
    except DeidError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _checked(archive: zipfile.ZipFile, size_bytes: int, limits: Limits) -> list[tuple[PurePosixPath, zipfile.ZipInfo]]:
    listed = archive.infolist()
    if len(listed) > _MEMBERS_MAX:
        raise refusal("limit-size", "the archive has more members than the limit")
    members: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for member in listed:
        kind = stat.S_IFMT(member.external_attr >> 16)
        if member.is_dir() or (member.filename.endswith("\\") and not member.file_size) or kind == stat.S_IFLNK:
            continue
        if kind not in (0, stat.S_IFREG) or member.flag_bits & 0x1:
            raise refusal("archive-refused", "the archive holds a member that is no plain file")
        place = _inside(member.filename)
        if place in members:
            raise refusal("archive-refused", "a name in the archive stands twice")
        if member.file_size > limits.file_bytes:
            raise refusal("limit-size", "a file in the archive is larger than the limit")
        members[place] = member
    if sum(member.file_size for member in members.values()) > limits.inflated_ratio * max(size_bytes, 1):
        raise refusal("limit-size", "the archive inflates past the limit")
    return list(members.items())


def _inside(name: str) -> PurePosixPath:
    """The name as a path below the folder. Some packers write `./` before it, and old ones of Windows `\\` for `/`.

    Raises: DeidError archive-refused for one that leads elsewhere or that no file system takes.
    """
    name = name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in parts:
        raise refusal("archive-refused", "a name in the archive leads out of it")
    sizes = [len(part.encode("utf-8", "replace")) for part in parts]
    if not 1 <= len(parts) <= _PARTS_MAX or max(sizes) > _NAME_BYTES_MAX or sum(sizes) + len(parts) > _PATH_BYTES_MAX:
        raise refusal("archive-refused", "a name in the archive is empty or too long")
    if any(ord(letter) < 32 for letter in name):
        raise refusal("archive-refused", "a name in the archive holds a control character")
    return PurePosixPath(*parts)


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, limits: Limits) -> None:
    private(path.parent)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    written = 0
    with os.fdopen(descriptor, "wb") as target, archive.open(member) as packed:
        while data := packed.read(_COPY_BYTES):
            written += len(data)
            if written > min(member.file_size, limits.file_bytes):
                raise refusal("limit-size", "a file in the archive inflates past its declared size")
            target.write(data)
