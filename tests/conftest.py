# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures: a backing file on a real disk, a cache file in /dev/shm, the golden images.

Environment: PCACHE_BUILD, PCACHE_TEST_DIR, PCACHE_GOLDEN; see README.md.
"""

import collections
import faulthandler
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading

import pytest

TESTS = pathlib.Path(__file__).resolve().parent
PATH = [str(TESTS), str(TESTS.parent / "bench")]  # bench: for the package measure
sys.path[:0] = PATH
# For programs that the tests start.
os.environ["PYTHONPATH"] = os.pathsep.join(PATH + [path for path in [os.environ.get("PYTHONPATH")] if path])

import hypothesis  # noqa: E402

from measure.libpcache import MIB, Cache  # noqa: E402
from fio import Fio  # noqa: E402
from ctl import Ctl  # noqa: E402
from support import (CACHE_BYTES, GOLDEN_MISSING, GOLDEN_SET, GOLDEN_SKIP, GOLDEN_WHERE, SEGMENTS_AT,  # noqa: E402
                     TESTDATA, Golden, Pair, golden_manifest, golden_summary, make_backing)

HANG_SECONDS = 600  # far above any test's time; then all stacks are printed and the run ends
SHM = pathlib.Path("/dev/shm")
PREFIX = "pcache-test-"

# hypothesis keeps its first 10 examples small: fewer than some 20 examples show nothing.
hypothesis.settings.register_profile(
    "default_", derandomize=True, deadline=None, print_blob=True, database=None,
    max_examples=18, stateful_step_count=60,
    suppress_health_check=list(hypothesis.HealthCheck))
hypothesis.settings.register_profile(
    "long", derandomize=False, deadline=None, print_blob=True, database=None,
    max_examples=400, stateful_step_count=120,
    suppress_health_check=list(hypothesis.HealthCheck))
hypothesis.settings.load_profile(os.environ.get("PCACHE_HYPOTHESIS", "default_"))


def _sweep(folder):
    """Removes what a killed run left: our directories whose process is gone."""
    for left in folder.glob(PREFIX + "*"):
        pid = left.name[len(PREFIX):].split("-")[0]
        if pid.isdigit() and not pathlib.Path("/proc", pid).exists():
            for mounted in left.glob("tmpfs-*"):
                _unmount(mounted)
            shutil.rmtree(left, ignore_errors=True)


def _unmount(folder):
    return subprocess.run(["umount", str(folder)], capture_output=True, text=True, check=False)


def _own_folder(parent):
    return pathlib.Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))


def pytest_addoption(parser):
    parser.addoption("--large-golden", action="store_true",
                     help="run those tests alone that need a golden image which tests/testdata has not")


def _golden_image_of(item):
    """The name of the one image that the test is given; None: the test itself says which it takes."""
    for value in item.callspec.params.values() if hasattr(item, "callspec") else ():
        name = value.get("base", value.get("name")) if isinstance(value, dict) else value
        if name in golden_manifest():
            return name
    return None


def pytest_collection_modifyitems(config, items):
    if not config.getoption("large_golden"):
        return
    small = {name for name, (_image, where) in golden_manifest(TESTDATA).items() if where}
    needed = [item for item in items if "golden" in item.fixturenames and _golden_image_of(item) not in small]
    config.hook.pytest_deselected(items=[item for item in items if item not in needed])
    items[:] = needed


class WorkersNotAsked:
    """With -v, pytest-xdist asks each worker for its version. execnet before 2.1 runs that in the worker's main thread,
    and the tests in another one if the first is not quite done with it."""

    def __init__(self, config):
        self.option = config.option

    @pytest.hookimpl(hookwrapper=True, optionalhook=True)
    def pytest_xdist_newgateway(self):
        verbose, self.option.verbose = self.option.verbose, 0
        yield
        self.option.verbose = verbose


def pytest_configure(config):
    # Elsewhere signal() raises, and a mount namespace is that thread's alone.
    if threading.current_thread() is not threading.main_thread():
        raise pytest.UsageError("pytest runs in a thread that is not the main one of its process: tests that handle "
                                "signals or mount file systems fail there; run it without pytest-xdist")
    config.pluginmanager.register(WorkersNotAsked(config))
    config.addinivalue_line("markers", "hang_seconds(n): the test hangs when it takes longer")
    config.addinivalue_line("markers", "damages_image: the image is not checked after the test")
    config.addinivalue_line("markers", "kills: the log may end in a torn kset after the test")
    if GOLDEN_SET and GOLDEN_MISSING and str(GOLDEN_WHERE) != "none":
        raise pytest.UsageError(f"PCACHE_GOLDEN: {GOLDEN_WHERE}/manifest.json is missing; set it to the directory "
                                "of the golden images, or to none to test those of tests/testdata alone")


@pytest.fixture(scope="session", autouse=True)
def runtime_folder(disk_parent):
    """For the control sockets of this process's caches, and of those that it starts: nobody else's are met."""
    folder = _own_folder(disk_parent)
    os.environ["PCACHE_RUNTIME_DIR"] = str(folder)
    yield folder
    del os.environ["PCACHE_RUNTIME_DIR"]
    shutil.rmtree(folder, ignore_errors=True)


def pytest_report_header():
    return golden_summary()


def pytest_terminal_summary(terminalreporter):
    """What is not tested for want of golden images must not be overlooked."""
    if not GOLDEN_MISSING:
        return
    of_image = re.compile(f"{GOLDEN_SKIP} (\\w+)")
    found = [of_image.search(str(report.longrepr)) for report in terminalreporter.stats.get("skipped", [])]
    skipped = collections.Counter(match[1] for match in found if match)
    named = ", ".join(f"{number} of {image}" for image, number in sorted(skipped.items())) or "none"
    terminalreporter.section("large golden images are missing", sep="!", red=True)
    terminalreporter.line(f"{golden_summary()}. Tests skipped for want of an image: {named}.")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    Pair.made.clear()


@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item):
    """After a test that has passed: pcachectl finds nothing in the images that were attached in it."""
    if item.get_closest_marker("damages_image"):
        return
    allowed = (0, 1) if item.get_closest_marker("kills") else (0,)
    for pair in Pair.made:
        pair.close_all()
        if pair.used and pair.cache_path.exists() and pair.backing_path.exists():
            checked = Ctl().call("check", pair.cache_path, "--backing", pair.backing_path)
            if checked.returncode not in allowed:
                pytest.fail(f"pcachectl check after the test: exit status {checked.returncode}\n"
                            f"{checked.stdout}{checked.stderr}", pytrace=False)


@pytest.fixture(autouse=True)
def no_hang(request):
    """A test that hangs fails the run, with the stacks of all threads, instead of stopping it."""
    marker = request.node.get_closest_marker("hang_seconds")
    faulthandler.dump_traceback_later(marker.args[0] if marker else HANG_SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def disk_parent():
    parent = pathlib.Path(os.environ.get("PCACHE_TEST_DIR", tempfile.gettempdir()))
    _sweep(parent)
    probe = _own_folder(parent)
    try:
        fd = os.open(probe / "probe", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
        os.close(fd)
    except OSError as error:
        pytest.exit(f"{parent}: no O_DIRECT there ({error}): set PCACHE_TEST_DIR to a directory on "
                    "ext4, xfs or btrfs", returncode=2)
    finally:
        shutil.rmtree(probe)
    return parent


@pytest.fixture(scope="session")
def shm_parent():
    _sweep(SHM)
    free = shutil.disk_usage(SHM).free
    if free < 3 << 30:
        pytest.exit(f"{SHM}: {free >> 20} MiB are free, the tests need 3 GiB", returncode=2)
    return SHM


@pytest.fixture
def disk(disk_parent):
    """A directory on a real file system, removed afterwards."""
    folder = _own_folder(disk_parent)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def shm(shm_parent):
    """A directory in /dev/shm, removed afterwards."""
    folder = _own_folder(shm_parent)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def small_shm(shm):
    """makes(size_mib): a folder on a tmpfs of its own, to be filled. /dev/shm itself is never filled: it may be larger
    than what the machine has of memory, and other tests run on it."""
    mounted = []

    def makes(size_mib):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="tmpfs-", dir=shm))
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "pcache-test", str(folder)],
                          capture_output=True, check=False).returncode:
            pytest.skip("mount -t tmpfs is not permitted here (needs root with CAP_SYS_ADMIN): a file system "
                        "without space cannot be made")
        mounted.append(folder)
        return folder

    yield makes
    left = [done.stderr for done in map(_unmount, mounted) if done.returncode]
    assert not left, left


@pytest.fixture
def backing(disk):
    """A 16 MiB backing file whose every sector differs."""
    return make_backing(disk / "backing", 16 * MIB)


@pytest.fixture
def fresh_cache_file(shm):
    """An empty (sparse) 512 MiB file."""
    path = shm / "cache"
    with open(path, "wb") as f:
        f.truncate(CACHE_BYTES)
    return path


@pytest.fixture(scope="session")
def used_cache_file(shm_parent):
    folder = _own_folder(shm_parent)
    yield folder / "cache"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cache_file(used_cache_file):
    """A blank 512 MiB file with the segments of earlier tests behind its zeroed first 20 KiB.

    Ten times as fast as a sparse one, whose pages must be allocated; and a format that relies on zeros,
    or a log that runs into ksets of an earlier life, is noticed.
    """
    path = used_cache_file
    with open(path, "r+b" if path.exists() else "wb") as f:
        f.truncate(CACHE_BYTES)
        f.write(bytes(SEGMENTS_AT))
    return path


@pytest.fixture
def pair(cache_file, backing):
    """The two, with open(); what is left open is closed."""
    pair = Pair(cache_file, backing)
    yield pair
    pair.close_all()


@pytest.fixture
def cache(pair) -> Cache:
    return pair.open()


@pytest.fixture(scope="session")
def golden(shm_parent, disk_parent):
    """The kernel's images, each unpacked at most once."""
    folders = _own_folder(shm_parent), _own_folder(disk_parent)
    yield Golden(*folders)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def fio(pair, disk):
    """fio over the pair, with a folder of its own for what fio leaves behind."""
    return Fio(pair, disk)


@pytest.fixture
def ctl(disk):
    """pcachectl, run in the directory `disk`."""
    return Ctl(disk)
