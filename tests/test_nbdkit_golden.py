# SPDX-License-Identifier: GPL-2.0-or-later
"""nbdkit over images that are not attached, readonly=1: the kernel's, and one that a SIGKILL has left."""

import contextlib
import errno
import hashlib
import subprocess

import pytest

import fs_rounds
from device_stack import Stack, cached, missing
from measure.libpcache import MIB
from support import PAGE, file_state, golden_damaged, golden_images, libnbd
from test_nbdkit import PLUGIN, command, good, served, tool


@pytest.fixture(scope="module")
def nbd():
    return libnbd()


def digest_by(uri, folder):
    """Of all that nbdcopy gets."""
    copy = folder / "copy"
    good(tool("nbdcopy", "libnbd-bin"), uri, copy)
    with open(copy, "rb") as f:
        found = hashlib.file_digest(f, "sha256").hexdigest()
    copy.unlink()
    return found


def refusal(nbd, uri, request, *words):
    """The errno of a request that libnbd would refuse by itself."""
    client = nbd.NBD()
    client.set_strict_mode(0)
    client.connect_uri(uri)
    with pytest.raises(nbd.Error) as refused:
        getattr(client, request)(*words)
    client.shutdown()
    return refused.value.errnum


@pytest.mark.parametrize("image", golden_images())
def test_several_servers_of_one_image_serve_what_the_kernel_read(golden, tmp_path, image):
    with golden.untouched(image["name"]) as pair, contextlib.ExitStack() as servers:
        uris = []
        for name in ("one", "two", "three"):
            (tmp_path / name).mkdir()
            uris.append(servers.enter_context(served(pair, tmp_path / name, "readonly=1"))[0])
        assert [digest_by(uri, tmp_path) for uri in uris] == [image["logical_sha256_kernel"]] * len(uris)


def test_what_would_change_it_is_refused(golden, nbd, tmp_path):
    with golden.untouched("d_crash_crcoff") as pair, served(pair, tmp_path, "readonly=1", errors=True) as (uri, _):
        for request in ("pwrite", "trim", "zero"):
            words = (bytes(PAGE), 0) if request == "pwrite" else (PAGE, 0)
            assert refusal(nbd, uri, request, *words) in (errno.EPERM, errno.EROFS), request
        client = nbd.NBD()
        client.connect_uri(uri)
        client.flush()
        client.shutdown()


@pytest.mark.parametrize("case", golden_damaged(attach="refuse"))
def test_a_damaged_image_is_refused_in_one_line(golden, tmp_path, case):
    with golden.untouched_damaged(case) as pair:
        done = subprocess.run([*map(str, command(pair, "readonly=1")), "--unix", tmp_path / "socket"],
                              capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    line, = [line for line in done.stderr.splitlines() if "warning: " not in line]
    assert line.startswith("nbdkit: ") and str(pair.cache_path) in line, line


@pytest.mark.parametrize("case", golden_damaged(attach="ok"))
def test_a_damaged_image_that_is_served(golden, nbd, tmp_path, case):
    with golden.untouched_damaged(case) as pair, served(pair, tmp_path, "readonly=1", errors=True) as (uri, _):
        if "eio_range" not in case["expect"]:
            assert digest_by(uri, tmp_path) == case["expect"]["logical_sha256"], case["why"]
            return
        off, length = case["expect"]["eio_range"]
        client = nbd.NBD()
        client.connect_uri(uri)
        client.pread(PAGE, off - PAGE)
        client.pread(PAGE, off + length)
        with pytest.raises(nbd.Error) as failed:
            client.pread(PAGE, off)
        client.shutdown()
        assert failed.value.errnum == errno.EIO


# ---- Files of an image, without a copy ----

FIRST, LATER = b"first" * 300_000, b"later" * 1000


def crashed(fs, shm, disk):
    """A stack whose server was killed. On ext4 `first` is where it belongs, and `later`, fsynced, in the journal."""
    why = missing() or fs_rounds.missing_for(fs)
    if why:
        pytest.skip(why)
    with open(disk / "disk", "wb") as f:
        f.truncate(512 * MIB)
    stack = Stack(disk, cached(disk / "disk", shm))
    try:
        stack.up()
        good(*fs_rounds.FILE_SYSTEMS[fs][0], stack.device)
        stack.mount("rw")
        (stack.mnt / "first").write_bytes(FIRST)
        good("sync", "--file-system", stack.mnt)
        (stack.mnt / "later").write_bytes(LATER)
        good("sync", stack.mnt / "later")
        stack.kill_server()
    finally:
        stack.down()
    return stack


@contextlib.contextmanager
def mounted(stack, shm, options, *filters):
    """The files of the image, which does not change. Not of `Stack.up()`: that one's loop device may write."""
    cache, backing = paths = shm / "cache", stack.folder / "disk"
    before = [file_state(path) for path in paths]
    started = stack.folder / "readonly.pid"
    stack.socket.unlink(missing_ok=True)
    stack.server = stack.start("nbdkit", "--foreground", *filters, "--pidfile", started, "--unix", stack.socket, PLUGIN,
                               f"cache_dev={cache}", f"backing={backing}", "emulate_pmem=1", "readonly=1")
    try:
        stack.wait_started("nbdkit", stack.server, started.exists)
        only = [] if filters else ["-r"]
        stack.fuse = stack.start("nbdfuse", *only, stack.nbd, f"nbd+unix:///?socket={stack.socket}")
        stack.wait_started("nbdfuse", stack.fuse, (stack.nbd / "nbd").exists)
        stack.device = good("losetup", *only, "--find", "--show", stack.nbd / "nbd").strip()
        good("mount", "-o", options, stack.device, stack.mnt)
        yield stack.mnt
    finally:
        stack.down()
    assert before == [file_state(path) for path in paths]


@pytest.mark.parametrize("fs", fs_rounds.FILE_SYSTEMS)
def test_files_of_a_crash_image(shm, disk, fs):
    """The journal is replayed into the cow filter's file."""
    with mounted(crashed(fs, shm, disk), shm, "rw", "--filter=cow") as folder:
        assert (folder / "first").read_bytes() == FIRST
        assert (folder / "later").read_bytes() == LATER
        (folder / "first").write_bytes(LATER)
        good("sync", folder / "first")


def test_files_of_a_crash_image_but_those_of_the_journal(shm, disk):
    with mounted(crashed("ext4", shm, disk), shm, "ro,noload") as folder:
        assert (folder / "first").read_bytes() == FIRST
        assert not (folder / "later").exists()
