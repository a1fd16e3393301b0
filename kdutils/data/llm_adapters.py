"""The files of LLM-Adapters that the authors trained and tested on, at one commit.

They come by `git fetch` of that commit, not by HTTPS file by file: the ids of most files are not known to us,
and the only thing pinned is the commit. A commit's id is the hash of its content, which names the hash of its
tree, which names those of its folders and files; git checks all of them as it receives them. The commit and
the trees are kept beside the files, so that every later reading checks the same chain without git.

llm-adapters-<commit>/objects/<id>               the commit and the trees, as git hashes them
llm-adapters-<commit>/dataset/<name>/test.json
llm-adapters-<commit>/ft-training_set/<name>.json
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from kdutils.io import disk
from kdutils.items import DataError

TEST_FOLDERS = {  # task -> its folder in dataset/
    "aqua": "AQuA",
    "addsub": "AddSub",
    "gsm8k": "gsm8k",
    "multiarith": "MultiArith",
    "svamp": "SVAMP",
    "singleeq": "SingleEq",
    "arc_c": "ARC-Challenge",
    "arc_e": "ARC-Easy",
    "boolq": "boolq",
    "hellaswag": "hellaswag",
    "obqa": "openbookqa",
    "piqa": "piqa",
    "siqa": "social_i_qa",
    "winogrande": "winogrande",
}
TEST_FILES = {task: f"dataset/{folder}/test.json" for task, folder in TEST_FOLDERS.items()}
TRAIN_FILES = {  # domain -> what is trained on
    "math": "ft-training_set/math_10k.json",
    "commonsense": "ft-training_set/commonsense_15k.json",
}
FILES = (*TEST_FILES.values(), *TRAIN_FILES.values())
OF_A_REPOSITORY = (  # variables that would lead git elsewhere, as within a hook
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"),
)
PATIENCE = ("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60")  # bytes a second, seconds


def own_folder(name: str) -> Path | None:
    """The folder of that name in $KDUTILS_DATA; None if it is not there."""
    root = os.environ.get("KDUTILS_DATA")
    folder = Path(root).expanduser().resolve() / name if root else None
    return folder if folder and folder.is_dir() else None


@dataclass(frozen=True)
class Release:
    """Where the files are published, and what they must be."""

    url: str
    commit: str
    known: tuple[tuple[str, str], ...] = ()  # files and blob ids that were seen elsewhere

    @property
    def folder(self) -> Path:
        """Where the files are read from: $KDUTILS_DATA/llm-adapters if it is there, else the user's cache."""
        return own_folder("llm-adapters") or self.cached

    @property
    def cached(self) -> Path:
        """The folder in the user's cache."""
        return disk.cache_path(f"llm-adapters-{self.commit[:12]}")


PINNED = Release(
    url="https://github.com/AGI-Edgerunners/LLM-Adapters.git",
    commit="816657208af4db747803f87ba40a4c71383fed7a",
    known=(
        ("dataset/AddSub/test.json", "f3996cdf4159b4e1e4b6768865a4db72105f4e2f"),
        ("ft-training_set/math_10k.json", "27dba77d6ed80aa118d78fbafa5cecd651f6d463"),
        ("ft-training_set/commonsense_15k.json", "3716afef6d384c475dba13f88a5a96c8032dafe2"),
    ),
)


def content(release: Release, name: str) -> bytes:
    """The bytes of one of FILES, which hash to the id that the release's commit gives it.

    The release is downloaded on first use, whole or not at all.

    Raises:
        DataError: names the file, the id it should have and the one it has, and the remedy.
    """
    folder = release.folder
    if not folder.is_dir():
        _download(release, folder)

    def kept(kind: str, name: str) -> bytes:
        path = folder / "objects" / name
        data = _bytes_of(path, kind, name, release)
        if (found := git_id(kind, data)) != name:
            raise DataError(f"{path} is damaged: git {kind} id {found} instead of {name}; {_remedy(release)}")
        return data

    expected = _walk(release, kept)[name]
    path = folder / name
    data = _bytes_of(path, "blob", expected, release)
    if (found := git_id("blob", data)) != expected:
        raise DataError(
            f"{path} is not the released file: git blob id {found} instead of {expected} "
            f"({len(data):,} bytes); {_remedy(release)}"
        )
    return data


def _bytes_of(path: Path, kind: str, name: str, release: Release) -> bytes:
    if not path.is_file():
        raise DataError(f"{path} is missing, git {kind} id {name}; {_remedy(release)}")
    return path.read_bytes()


def git_id(kind: str, data: bytes) -> str:
    """The id that git gives to an object: the SHA-1 of its kind, its size and its content."""
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


def _remedy(release: Release) -> str:
    again = f"{f'delete {release.folder} and ' if release.folder.is_dir() else ''}run again with a network"
    return (
        f"{again}, or copy {release.cached} from a machine that has it to $KDUTILS_DATA/llm-adapters, "
        "or set KDUTILS_DATA to a folder with data/ and use data='benchmark'"
    )


def _walk(release: Release, kept: Callable[[str, str], bytes]) -> dict[str, str]:
    """The blob id of each of FILES, with `kept(kind, id)` for the content of commit and trees."""
    tree = cache(lambda name: tree_entries(kept("tree", name)))
    root = kept("commit", release.commit).split(b"\n", 1)[0].removeprefix(b"tree ").decode()
    ids = {}
    for name in FILES:
        found = root
        for part in name.split("/"):
            if part not in (entries := tree(found)):
                raise DataError(
                    f"{name} is not in commit {release.commit} of {release.url}; {_remedy(release)}"
                )
            found = entries[part]
        ids[name] = found
    for name, expected in release.known:
        if ids[name] != expected:
            raise DataError(
                f"{name} is not the file we know: commit {release.commit} of {release.url} has git blob id "
                f"{ids[name]} instead of {expected}; {_remedy(release)}"
            )
    return ids


def tree_entries(tree: bytes) -> dict[str, str]:
    """Name -> id of what is in a tree object (mode, blank, name, NUL and 20 bytes each)."""
    entries = {}
    while tree:
        head, rest = tree.split(b"\0", 1)
        entries[head.split(b" ", 1)[1].decode("utf-8", "surrogateescape")] = rest[:20].hex()
        tree = rest[20:]
    return entries


def _download(release: Release, folder: Path) -> None:
    """Fill the folder, whole or not at all; if another process is faster, its folder stays."""
    with disk.folder_in_one_step(folder, replaces=False) as unfinished:
        git = partial(_git, release, f"--git-dir={unfinished / 'git'}")
        git("init", "--quiet", "--bare")
        git("remote", "add", "origin", release.url)
        # Without the files' contents, which are then fetched one by one as they are asked for.
        git("fetch", "--depth=1", "--filter=blob:none", "--no-tags", "origin", release.commit)

        def fetched(kind: str, name: str) -> bytes:
            data = git("cat-file", kind, name)
            if (found := git_id(kind, data)) != name:
                raise DataError(f"git {kind} {name} came with id {found}; {_remedy(release)}")
            if kind != "blob":
                (unfinished / "objects").mkdir(exist_ok=True)
                (unfinished / "objects" / name).write_bytes(data)
            return data

        for name, blob_id in _walk(release, fetched).items():
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            (unfinished / name).write_bytes(fetched("blob", blob_id))
        shutil.rmtree(unfinished / "git")


def _git(release: Release, *arguments: str) -> bytes:
    """What a git command prints.

    Raises:
        DataError: if it fails, or if there is no git.
    """
    environment = {name: value for name, value in os.environ.items() if name not in OF_A_REPOSITORY}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}  # never ask; messages that we can read
    what = f"cannot download the data of LLM-Adapters, commit {release.commit} of {release.url}"
    try:
        run = subprocess.run(["git", *PATIENCE, *arguments], env=environment, capture_output=True, check=True)
    except FileNotFoundError:
        raise DataError(f"{what}: git is not installed; install it, or: {_remedy(release)}") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        reasons = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))] or lines
        asked = f"{arguments[1]} {arguments[-1]}"
        raise DataError(f"{what} (git {asked}: {reasons[0][:200]}); {_remedy(release)}") from None
    return run.stdout
