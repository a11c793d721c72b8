# SPDX-License-Identifier: GPL-2.0-or-later
"""libpcache.so through ctypes: what the system tests and the limits drive the cache with.

The library is taken from PCACHE_BUILD (default: build/ of this tree).
"""

import ctypes as c
import json
import mmap
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("PCACHE_BUILD", ROOT / "build"))

READ, WRITE, FLUSH, DISCARD, WRITE_ZEROES = range(5)
FUA, PREFLUSH = 1, 2
FROM_MEDIA = -1
IO_AUTO, IO_URING, IO_THREADS = 0, 1, 2
PREFAULT_BESIDE, PREFAULT_ATTACH = 0, 1
ERROR, WARNING, NOTICE = 0, 1, 2
MIB = 1 << 20

LogFunction = c.CFUNCTYPE(None, c.c_void_p, c.c_int, c.c_char_p)
NO_LOG = LogFunction()  # for a program that hears Ctrl-C: one that meets a call from C into Python is lost


class _Error(c.Structure):
    _fields_ = [("code", c.c_int32), ("text", c.c_char * 508)]


class _Choice(c.Structure):
    _fields_ = [("name", c.c_char_p), ("value", c.c_int64), ("text", c.c_char_p)]


class _OptionInfo(c.Structure):
    _fields_ = [("size", c.c_uint32), ("type", c.c_uint32), ("offset", c.c_uint32), ("choice_count", c.c_uint32),
                ("choices", c.POINTER(_Choice)), ("least", c.c_int64), ("most", c.c_int64)] + [
                    (name, c.c_char_p) for name in ("name", "title", "text", "unit", "initial", "expected", "fio",
                                                    "fio_initial", "ctl")]


class _StatusField(c.Structure):
    _fields_ = [("size", c.c_uint32), ("reserved", c.c_uint32), ("object", c.c_char_p), ("name", c.c_char_p),
                ("text", c.c_char_p), ("kind", c.c_char_p)]


TEXT, NAME, SWITCH, NUMBER, SIZE, CHOICE = range(6)  # enum pcache_option_type


class Option:
    """An option as the library's table has it: the fields of struct pcache_option_info, as Python's."""

    def __init__(self, raw):
        self.choices = {raw.choices[i].name.decode(): raw.choices[i].value for i in range(raw.choice_count)}
        for name, kind in _OptionInfo._fields_:
            if name not in ("size", "choices", "choice_count"):
                value = getattr(raw, name)
                setattr(self, name, value.decode() if kind is c.c_char_p else value)
        # Its names in pcachectl, by subcommand.
        self.in_ctl = dict(word.split(":", 1) for word in self.ctl.split())


def _listed(count, describe, struct):
    """All that a pair of listing functions tells."""
    entries = [struct(size=c.sizeof(struct)) for _ in range(count())]
    for index, entry in enumerate(entries):
        assert describe(index, c.byref(entry)) == 0
    return entries


class _Extent(c.Structure):
    _fields_ = [("off", c.c_uint64), ("len", c.c_uint64), ("flags", c.c_uint32), ("reserved", c.c_uint32)]


class _Info(c.Structure):
    _fields_ = [
        ("size", c.c_uint32),
        ("block_size", c.c_uint32),
        ("logical_bytes", c.c_uint64),
        ("cache_bytes", c.c_uint64),
        ("segments", c.c_uint32),
        ("data_crc", c.c_int32),
        ("gc_percent", c.c_int32),
        ("emulated", c.c_int32),
        ("persist", c.c_char * 16),
        ("pmem_kind", c.c_char * 16),
        ("io_mode", c.c_char * 16),
        ("makes_holes", c.c_int32),
        ("cache_mode", c.c_int32),
    ]


class _Request(c.Structure):
    _fields_ = [
        ("op", c.c_uint32),
        ("flags", c.c_uint32),
        ("off", c.c_uint64),
        ("len", c.c_uint64),
        ("buf", c.c_void_p),
        ("result", c.c_int32),
        ("reserved", c.c_uint32),
        ("user", c.c_void_p),
    ]


def _load():
    if not (BUILD / "lib" / "libpcache.so").exists():
        raise FileNotFoundError(f"{BUILD}/lib/libpcache.so: build it, or set PCACHE_BUILD")
    lib = c.CDLL(str(BUILD / "lib" / "libpcache.so"))
    p = c.POINTER
    lib.pcache_option_count.restype = c.c_uint32
    lib.pcache_option_describe.argtypes = [c.c_uint32, p(_OptionInfo)]
    lib.pcache_status_field_count.restype = c.c_uint32
    lib.pcache_status_field_describe.argtypes = [c.c_uint32, p(_StatusField)]
    lib.pcache_close.argtypes = [c.c_void_p, p(_Error)]
    lib.pcache_drain.argtypes = [c.c_void_p, p(_Error)]
    lib.pcache_set_gc_percent.argtypes = [c.c_void_p, c.c_int32, p(_Error)]
    lib.pcache_set.argtypes = [c.c_void_p, c.c_char_p, c.c_char_p, p(_Error)]
    lib.pcache_get_info.argtypes = [c.c_void_p, p(_Info)]
    lib.pcache_map.argtypes = [c.c_void_p, c.c_uint64, c.c_uint64, p(_Extent), c.c_uint32]
    lib.pcache_get_status.argtypes = [c.c_void_p, c.c_int]
    lib.pcache_get_status.restype = c.c_void_p
    lib.pcache_queue_create.argtypes = [c.c_void_p, c.c_uint32, p(c.c_void_p), p(_Error)]
    lib.pcache_queue_destroy.argtypes = [c.c_void_p]
    lib.pcache_queue_destroy.restype = None
    lib.pcache_submit.argtypes = [c.c_void_p, p(_Request)]
    lib.pcache_submit_batch.argtypes = [c.c_void_p, p(p(_Request)), c.c_uint32, p(p(_Request)), p(c.c_uint32)]
    lib.pcache_reap.argtypes = [c.c_void_p, p(p(_Request)), c.c_uint32, c.c_uint32, c.c_int64]
    lib.pcache_queue_cancel.argtypes = [c.c_void_p]
    lib.pcache_queue_in_flight.argtypes = [c.c_void_p]
    lib.pcache_queue_in_flight.restype = c.c_uint32
    lib.pcache_queue_fd.argtypes = [c.c_void_p]
    lib.pcache_version.restype = c.c_char_p
    return lib


LIB = _load()
OPTIONS = {option.name: option for option in map(Option, _listed(LIB.pcache_option_count, LIB.pcache_option_describe,
                                                                 _OptionInfo))}
# (object, name): text.
STATUS_FIELDS = {(field.object.decode(), field.name.decode()): field.text.decode() for field in
                 _listed(LIB.pcache_status_field_count, LIB.pcache_status_field_describe, _StatusField)}


class _Options(c.Structure):
    """struct pcache_options, its fields as the library lists them."""

    _fields_ = [("size", c.c_uint32), ("reserved", c.c_uint32), ("log", LogFunction), ("log_ctx", c.c_void_p)] + [
        (option.name, c.c_char_p if option.type in (TEXT, NAME) else c.c_int64) for option in OPTIONS.values()]


assert all(getattr(_Options, option.name).offset == option.offset for option in OPTIONS.values())
LIB.pcache_open.argtypes = [c.POINTER(_Options), c.POINTER(c.c_void_p), c.POINTER(_Error)]
LIB.pcache_options_init_sized.argtypes = [c.POINTER(_Options), c.c_uint32]
LIB.pcache_options_init_sized.restype = None
LIB.pcache_options_set.argtypes = [c.POINTER(_Options), c.c_char_p, c.c_char_p, c.POINTER(_Error)]
LIB.pcache_options_get.argtypes = [c.POINTER(_Options), c.c_char_p, c.c_char_p, c.c_size_t]
_libc = c.CDLL(None)
_libc.free.argtypes = [c.c_void_p]


class PcacheError(OSError):
    """code: positive errno; text: the library's line."""

    def __init__(self, code, text):
        super().__init__(code, text)
        self.code, self.text = code, text


def new_options():
    """struct pcache_options with its defaults."""
    raw = _Options()
    LIB.pcache_options_init_sized(c.byref(raw), c.sizeof(raw))
    return raw


def set_option(raw, name, text):
    """From text; raises PcacheError."""
    err, raw_text = _Error(), text.encode()
    _check(LIB.pcache_options_set(c.byref(raw), name.encode(), raw_text, c.byref(err)), err)
    raw.texts = [*getattr(raw, "texts", []), raw_text]  # the library does not copy a path


def get_option(raw, name):
    text = c.create_string_buffer(4096)
    assert LIB.pcache_options_get(c.byref(raw), name.encode(), text, len(text)) < len(text)
    return text.value.decode()


def _check(rc, err):
    if rc < 0:
        raise PcacheError(-rc, err.text.decode())


class Request:
    """One request with a buffer of its own, at `misalign` bytes behind a page boundary."""

    def __init__(self, op, off=0, data=b"", length=None, flags=0, misalign=0):
        self.len = len(data) if length is None else length
        self.map = mmap.mmap(-1, max(self.len if op in (READ, WRITE) else len(data), 1) + misalign)
        self.misalign = misalign
        self.map[misalign:misalign + len(data)] = data
        self._view = (c.c_char * len(self.map)).from_buffer(self.map)
        self.raw = _Request(op=op, flags=flags, off=off, len=self.len,
                            buf=c.addressof(self._view) + misalign)

    @property
    def data(self):
        return bytes(self.map[self.misalign:self.misalign + self.len])

    @property
    def result(self):
        return self.raw.result


class Queue:
    """A signal may raise between any two lines here: what the library has been given is noted before the call."""

    def __init__(self, cache, depth=64):
        self._handle, self._closing = c.c_void_p(), False
        self._by_address = {}
        self._kept = []  # completions that run() saw while it waited for another
        cache._queues.append(self)
        err = _Error()
        _check(LIB.pcache_queue_create(cache._handle, depth, c.byref(self._handle), c.byref(err)), err)

    def submit(self, request):
        """True: completed. False: queued. BlockingIOError: the queue is full."""
        assert self._handle, "the queue was closed"
        address = c.addressof(request.raw)
        self._by_address[address] = request
        rc = LIB.pcache_submit(self._handle, c.byref(request.raw))
        if rc != 0:
            del self._by_address[address]
        if rc < 0:
            raise BlockingIOError(-rc, os.strerror(-rc))
        return rc == 1

    def reap(self, least=1, most=64, timeout_ns=-1):
        """The completed requests, in the order in which they completed."""
        kept, self._kept = self._kept[:most], self._kept[most:]
        least, most = max(least - len(kept), 0), most - len(kept)
        return kept + (self._reap(least, most, timeout_ns) if most else [])

    def _reap(self, least, most, timeout_ns):
        done = (c.POINTER(_Request) * most)()
        n = LIB.pcache_reap(self._handle, done, least, most, timeout_ns)
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        return [self._by_address.pop(c.addressof(done[i].contents)) for i in range(n)]

    def _wait_for(self, request):
        done = False
        while not done:
            for one in self._reap(1, 64, -1):
                if one is request:
                    done = True
                else:
                    self._kept.append(one)

    def run(self, request):
        """Submits, waits for this request, raises its error, returns it. Others are kept for reap()."""
        if not self.submit(request):
            self._wait_for(request)
        if request.result:
            raise OSError(-request.result, os.strerror(-request.result))
        return request

    def read(self, off, length, **kwargs):
        return self.run(Request(READ, off, length=length, **kwargs)).data

    def write(self, off, data, flags=0, **kwargs):
        self.run(Request(WRITE, off, data, flags=flags, **kwargs))

    def zero(self, off, length, op=DISCARD, flags=0):
        self.run(Request(op, off, length=length, flags=flags))

    def flush(self):
        self.run(Request(FLUSH))

    def write_each(self, offsets, data, flags=0):
        """Writes `data` at each of the offsets with as little Python as possible: about 2 us each.

        A write that waits for space is waited for. Returns how many were written and the errno that ended it
        (0: none).
        """
        request = Request(WRITE, 0, data, flags=flags)
        raw, by_ref, submit, handle = request.raw, c.byref(request.raw), LIB.pcache_submit, self._handle
        address = c.addressof(raw)
        self._by_address[address] = request
        done = 0
        for raw.off in offsets:
            rc = submit(handle, by_ref)
            if rc == 0:
                self._wait_for(request)
                self._by_address[address] = request
            elif rc < 0:
                del self._by_address[address]
                raise BlockingIOError(-rc, os.strerror(-rc))
            if raw.result:
                break
            done += 1
        del self._by_address[address]
        return done, -raw.result

    @property
    def fd(self):
        """For poll(): readable while reap(least=0) has something to do."""
        fd = LIB.pcache_queue_fd(self._handle)
        if fd < 0:
            raise OSError(-fd, os.strerror(-fd))
        return fd

    def cancel(self):
        """Gives up what waits for space; how many it were."""
        return LIB.pcache_queue_cancel(self._handle)

    @property
    def in_flight(self):
        """Queued and not yet given out by reap()."""
        return LIB.pcache_queue_in_flight(self._handle) + len(self._kept)

    def close(self):
        self._closing = True
        handle, self._handle = self._handle, None
        if handle:
            LIB.pcache_queue_destroy(handle)
        self._closing = False


class Cache:
    """An open cache with one queue. A context manager; close() reports the library's error."""

    def __init__(self, cache_path, backing_path, depth=64, **options):
        self.log = []  # (level, line)
        self._log_fn = LogFunction(lambda _ctx, level, line: self.log.append((level, line.decode())))
        raw = new_options()
        raw.cache_path = None if cache_path is None else os.fsencode(cache_path)
        raw.backing_path = None if backing_path is None else os.fsencode(backing_path)
        raw.emulate_pmem = 1
        raw.log = self._log_fn
        for name, value in options.items():
            assert hasattr(raw, name), name
            if isinstance(value, str) and OPTIONS[name].type == CHOICE:
                set_option(raw, name, value)
            else:
                setattr(raw, name, value.encode() if isinstance(value, str) else value)
        self._handle, self._queues = c.c_void_p(), []
        err = _Error()
        try:
            _check(LIB.pcache_open(c.byref(raw), c.byref(self._handle), c.byref(err)), err)
            self.queue = Queue(self, depth)
        except BaseException:
            self.close()
            raise

    def new_queue(self, depth=64):
        return Queue(self, depth)

    @property
    def info(self):
        info = _Info(size=c.sizeof(_Info))
        LIB.pcache_get_info(self._handle, c.byref(info))
        return info

    @property
    def warnings(self):
        return [line for level, line in self.log if level == WARNING]

    def _status(self, form):
        pointer = LIB.pcache_get_status(self._handle, form)
        text = c.string_at(pointer).decode()
        _libc.free(pointer)
        return text

    @property
    def status(self):
        return json.loads(self._status(1))

    @property
    def status_line(self):
        return self._status(0)

    def drain(self):
        """Everything that had completed is on the backing device then; raises PcacheError."""
        err = _Error()
        _check(LIB.pcache_drain(self._handle, c.byref(err)), err)

    def set_gc_percent(self, percent):
        err = _Error()
        _check(LIB.pcache_set_gc_percent(self._handle, percent, c.byref(err)), err)

    def set(self, name, text):
        """An option that may be changed while the cache is open."""
        err = _Error()
        _check(LIB.pcache_set(self._handle, name.encode(), str(text).encode(), c.byref(err)), err)

    def close(self):
        if not self._handle:
            return
        if any(queue._closing for queue in self._queues):
            return  # a signal has broken it off: the process ends, and only that is sure to destroy it
        for queue in self._queues:
            queue.close()
        err = _Error()
        handle, self._handle = self._handle, None
        _check(LIB.pcache_close(handle, c.byref(err)), err)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    # The queue's calls, for short tests.
    def read(self, off, length, **kwargs):
        return self.queue.read(off, length, **kwargs)

    def write(self, off, data, **kwargs):
        self.queue.write(off, data, **kwargs)

    def map(self, off, length, count=64):
        """(offset, length, letters) of each part: c(ached), d(irty), z(eros), h(ole)."""
        extents = (_Extent * count)()
        n = LIB.pcache_map(self._handle, off, length, extents, count)
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        return [(e.off, e.len, "".join(letter for bit, letter in enumerate("cdzh") if e.flags >> bit & 1))
                for e in extents[:n]]

    def zero(self, off, length, **kwargs):
        self.queue.zero(off, length, **kwargs)

    def flush(self):
        self.queue.flush()
