"""Which commit's code made a record: what it says, held against the history of the repository.

A record names a commit and a hash over the Python files of ``lib``. The name is what somebody said
where there was no git (a copy of the tree on a GPU machine), and a commit can leave the history
when changes land. The hash can be held against every commit.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from lib.provenance import hash_of
from lib.store import Record


class NoHistory(RuntimeError):
    """There is no git here, no repository, or only a part of its history."""


class NotThere(NoHistory):
    """Git answers that it has no such thing."""


@dataclass(frozen=True)
class Origin:
    """Where the code of one session of a record is.

    Attributes:
        record: file name.
        named: the commit that it names, None if none.
        commit: a commit with the code that ran, the named one if that has it; None if no commit
            of the history has it.
        code: hash of the code that ran, None if the session does not say it.
    """

    record: str
    named: str | None
    commit: str | None
    code: str | None

    @property
    def as_named(self) -> bool:
        """Whether the commit that the record names is one with its code."""
        return self.commit is not None and self.commit == self.named


def origins(records: Iterable[Record], root: Path) -> list[Origin]:
    """One entry for each session of each record.

    Raises:
        NoHistory: no git, no repository at `root`, or a shallow one.
    """
    history = History(root)
    found = [
        Origin(record.name, commit, history.commit_of(commit, code), code)
        for record in records
        for commit, code in map(_code, _sessions(record.provenance))
    ]
    return found


def summary(found: Iterable[Origin]) -> str:
    """How many sessions ran the code of the commits that they name, for readers."""
    every = list(found)
    named = sum(origin.as_named for origin in every)
    other = sum(origin.commit is not None for origin in every) - named
    parts = [f"{named} of {len(every)} sessions ran the code of the commit that they name"]
    if other:
        parts.append(f"{other} that of another commit here, found by its hash")
    for what, there in (("ran the code of no commit here", True), ("say no code", False)):
        left = [o.record for o in every if o.commit is None and (o.code is not None) == there]
        if left:
            parts.append(f"{len(left)} {what}: {', '.join(sorted(left))}")
    return "; ".join(parts)


def _sessions(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """What each session says of its code; of the last one the record itself says it too."""
    *earlier, last = facts.get("sessions") or [{}]
    return [*earlier, {**facts, **last}]


def _code(facts: dict[str, Any]) -> tuple[str | None, str | None]:
    return facts.get("commit") or None, facts.get("lib_hash")


class History:
    """Commits of a repository by the hash of their ``lib``, as in ``lib.provenance.library_hash``.

    Raises:
        NoHistory: see :func:`origins`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        if self._git("rev-parse", "--is-shallow-repository") != b"false\n":
            raise NoHistory(f"{root} has not the whole history of its repository")
        self._files: dict[bytes, bytes] = {}
        self._hashes: dict[str, str | None] = {}
        self._by_hash: dict[str, str] | None = None

    def commit_of(self, named: str | None, code: str | None) -> str | None:
        """A commit whose library has the hash `code`, `named` if it has; None if there is none."""
        if code is None:
            return None
        if named is not None and self.library_hash(named) == code:
            return named
        if self._by_hash is None:
            # the oldest of several with the same code
            changes = self._git("log", "--format=%H", "HEAD", "--", "lib").decode().split()
            self._by_hash = {str(self.library_hash(commit)): commit for commit in changes}
        return self._by_hash.get(code)

    def library_hash(self, commit: str) -> str | None:
        """Hash of the library of a commit; None for a commit that is not there."""
        if commit not in self._hashes:
            self._hashes[commit] = self._hash(commit)
        return self._hashes[commit]

    def _hash(self, commit: str) -> str | None:
        try:
            listed = self._git("ls-tree", "-r", "-z", "--full-tree", f"{commit}^{{commit}}", "lib")
        except NotThere:
            return None
        blobs: dict[PurePath, bytes] = {}
        for line in filter(None, listed.split(b"\0")):
            facts, _, name = line.partition(b"\t")
            if name.endswith(b".py"):
                blobs[PurePosixPath(name.decode())] = facts.split()[2]
        self._read([blob for blob in blobs.values() if blob not in self._files])
        return hash_of({path: self._files[blob] for path, blob in blobs.items()})

    def _read(self, blobs: list[bytes]) -> None:
        if not blobs:
            return
        told = self._git("cat-file", "--batch", given=b"\n".join(dict.fromkeys(blobs)) + b"\n")
        at = 0
        while at < len(told):
            end = told.index(b"\n", at)
            blob, _, size = told[at:end].split()
            self._files[blob] = told[end + 1 : end + 1 + int(size)]
            at = end + 2 + int(size)

    def _git(self, *arguments: str, given: bytes | None = None) -> bytes:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=self.root, capture_output=True, input=given, timeout=120,
                check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoHistory(f"git does not answer: {error}") from error
        if done.returncode != 0:
            raise NotThere(done.stderr.decode(errors="replace").strip())
        return done.stdout
