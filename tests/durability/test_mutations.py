"""Each safeguard is guarded: the package with one of them taken out fails the test that is named beside it.

Run: pytest -m slow tests/durability/test_mutations.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import asyncgen

TESTS = Path(__file__).parents[1]

# what is taken out: (module, text, what stands there instead, the test that has to fail)
MUTATIONS = {
    "the repair of a torn tail": (
        "run/jsonl.py",
        "            os.ftruncate(self._descriptor, end)\n",
        "",
        "run/test_jsonl.py::test_a_long_torn_tail_is_moved_whole",
    ),
    "keeping what was torn off": (
        "run/jsonl.py",
        "            self._put_aside(end, size)\n",
        "",
        "run/test_jsonl.py::test_pieces_torn_off_by_several_crashes_are_all_kept",
    ),
    "cutting back a line that does not fit": (
        "run/jsonl.py",
        "            os.ftruncate(self._descriptor, self._size)\n",
        "            pass\n",
        "run/test_jsonl.py::test_a_real_limit_on_the_size_leaves_whole_lines_only",
    ),
    "the lock": (
        "run/lock.py",
        "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(descriptor, fcntl.LOCK_UN)",
        "run/test_lock.py::test_a_second_writer_is_told_who_writes_and_changes_nothing_until_the_first_dies",
    ),
    "the stop after a failed fsync": (
        "generate/journal/files.py",
        "                self._failure = error\n",
        "                pass\n",
        "generate/journal/test_group_sync.py::test_a_failed_flush_is_reported_by_every_later_call_and_not_tried_again",
    ),
    "never trying a failed fsync again": (
        "run/jsonl.py",
        "self._unsafe or self._fsync() or self._check_identity()",
        "self._fsync() or self._check_identity()",
        "run/test_jsonl.py::test_a_failed_fsync_is_reported_ever_after_and_never_tried_again",
    ),
    "the taking of a request before it is sent": (
        "generate/pool/source.py",
        "self._claim_unless_left if leaves_any else self._claim)",
        "lambda key: not self._journal.is_settled(key))",
        "generate/pool/test_pool.py::test_twins_are_sent_once_and_none_is_left",
    ),
    "writing what a worker brought before it gets another row": (
        "generate/pool/pool.py",
        "        self.settler.settle(records)\n",
        "        asyncio.get_running_loop().call_later(0.01, self.settler.settle, records)\n",
        "generate/pool/test_pool.py::test_nobody_sends_a_request_before_the_answer_that_it_brought_is_written",
    ),
    "the check of keys that stand twice in the file": (
        "generate/journal/settled.py",
        "if not settled.add_all(numbers):",
        "if settled.add_all(numbers) is None:",
        "generate/journal/test_journal.py::test_a_key_that_stands_twice_stops_the_run",
    ),
    "replacing run.json in one step": (
        "run/whole_file.py",
        "            temporary.rename(path)\n            sync_folder(",
        "            path.write_bytes(temporary.read_bytes())\n            sync_folder(",
        "run/test_whole_file.py::test_a_step_that_fails_leaves_the_old_content_and_is_explained",
    ),
}


@pytest.mark.parametrize("safeguard", MUTATIONS)
def test_each_safeguard_stands_where_it_is_said_to_and_has_its_test(safeguard: str) -> None:
    module, text, _, test = MUTATIONS[safeguard]
    file, _, name = test.partition("::")
    assert (Path(asyncgen.__file__).parent / module).read_text(encoding="utf-8").count(text) == 1
    assert f"def {name}(" in (TESTS / file).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("safeguard", MUTATIONS)
def test_without_this_safeguard_its_test_fails(safeguard: str, tmp_path: Path) -> None:
    module, text, instead, test = MUTATIONS[safeguard]
    package = tmp_path / "asyncgen"
    shutil.copytree(Path(asyncgen.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    source = (package / module).read_text(encoding="utf-8")
    (package / module).write_text(source.replace(text, instead), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / test)],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout[-2000:]
    assert " failed" in done.stdout
