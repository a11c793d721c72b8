#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A server of NBD whose device has a cache that loses its power with the server: what is written is in memory until a
flush, and a SIGKILL loses what was not flushed. And one that misbehaves, where asked to.

    tests/volatile_nbd.py SOCKET FILE [--no-flush] [--lose-flushes] [--single] [--garbage-after N] [--hang-up-after N]

It prints "ready" when it listens. `--lose-flushes`: a flush succeeds and does nothing. `--single`: no multi_conn.
`--garbage-after N`: the N-th request is answered with bytes that are no reply; `--hang-up-after N`: the connection ends
in the middle of the N-th reply. Written from the NBD project's document of the protocol.
"""

import argparse
import itertools
import os
import socket
import struct
import threading

MAGIC, OPTION_MAGIC, OPTION_REPLY = 0x4e42444d41474943, 0x49484156454f5054, 0x3e889045565a9
REQUEST, REPLY = 0x25609513, 0x67446698
READ, WRITE, DISCONNECT, FLUSH, TRIM, ZEROES = 0, 1, 2, 3, 4, 6
EXPORT_NAME, ABORT, INFO, GO = 1, 2, 6, 7
ACK, INFO_REPLY, UNSUPPORTED, INFO_EXPORT = 1, 3, 0x80000001, 0
EINVAL = 22
BLOCK = 512


class Device:
    """A file, and over it what was written and not flushed. One request at a time."""

    def __init__(self, path, loses_flushes):
        self.fd = os.open(path, os.O_RDWR)
        self.size = os.fstat(self.fd).st_size
        self.loses_flushes = loses_flushes
        self.unflushed = {}  # number of a block -> its bytes
        self.lock = threading.Lock()

    def read(self, off, count):
        with self.lock:
            data = bytearray(os.pread(self.fd, count, off))
            for at in range(0, count, BLOCK):
                block = self.unflushed.get((off + at) // BLOCK)
                if block is not None:
                    data[at:at + BLOCK] = block
            return bytes(data)

    def write(self, off, data):
        with self.lock:
            for at in range(0, len(data), BLOCK):
                self.unflushed[(off + at) // BLOCK] = data[at:at + BLOCK]

    def flush(self):
        with self.lock:
            if not self.loses_flushes:
                for number, block in self.unflushed.items():
                    os.pwrite(self.fd, block, number * BLOCK)
                self.unflushed = {}


class Connection:
    def __init__(self, sock, device, arguments, numbers):
        self.sock, self.device, self.arguments, self.numbers = sock, device, arguments, numbers
        self.flags = 1 | 32 | 64 | (0 if arguments.no_flush else 4) | (0 if arguments.single else 256)

    def receive(self, count):
        data = bytearray()
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return bytes(data)

    def answer_option(self, option, kind, data=b""):
        self.sock.sendall(struct.pack(">QIII", OPTION_REPLY, option, kind, len(data)) + data)

    def negotiate(self):
        self.sock.sendall(struct.pack(">QQH", MAGIC, OPTION_MAGIC, 3))
        no_zeroes = struct.unpack(">I", self.receive(4))[0] & 2
        while True:
            magic, option, count = struct.unpack(">QII", self.receive(16))
            assert magic == OPTION_MAGIC
            self.receive(count)
            if option == EXPORT_NAME:
                self.sock.sendall(struct.pack(">QH", self.device.size, self.flags) + bytes(0 if no_zeroes else 124))
                return True
            if option in (INFO, GO):
                info = struct.pack(">HQH", INFO_EXPORT, self.device.size, self.flags)
                self.answer_option(option, INFO_REPLY, info)
                self.answer_option(option, ACK)
                if option == GO:
                    return True
            elif option == ABORT:
                self.answer_option(option, ACK)
                return False
            else:
                self.answer_option(option, UNSUPPORTED)

    def do(self, kind, off, count, data):
        """The errno and the data of the reply."""
        if kind == FLUSH:
            self.device.flush()
        elif off + count > self.device.size or (off | count) % BLOCK:
            return EINVAL, b""
        elif kind == READ:
            return 0, self.device.read(off, count)
        elif kind == WRITE:
            self.device.write(off, data)
        elif kind == ZEROES:
            self.device.write(off, bytes(count))
        elif kind != TRIM:
            return EINVAL, b""
        return 0, b""

    def serve(self):
        while True:
            magic, _, kind, cookie, off, count = struct.unpack(">IHHQQI", self.receive(28))
            assert magic == REQUEST
            data = self.receive(count) if kind == WRITE else b""
            if kind == DISCONNECT:
                return
            error, answer = self.do(kind, off, count, data)
            reply = struct.pack(">IIQ", REPLY, error, cookie) + answer
            number = next(self.numbers)
            if number == self.arguments.garbage_after:
                reply = bytes(len(reply))
            if number == self.arguments.hang_up_after:
                self.sock.sendall(reply[:len(reply) // 2])
                return
            self.sock.sendall(reply)

    def run(self):
        with self.sock:
            try:
                if self.negotiate():
                    self.serve()
            except (EOFError, ConnectionError):
                pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("file")
    for name in ("no-flush", "lose-flushes", "single"):
        parser.add_argument(f"--{name}", action="store_true")
    for name in ("garbage-after", "hang-up-after"):
        parser.add_argument(f"--{name}", type=int)
    arguments = parser.parse_args()
    device = Device(arguments.file, arguments.lose_flushes)
    numbers = itertools.count(1)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(arguments.socket)
        listening.listen()
        print("ready", flush=True)
        while True:
            sock, _ = listening.accept()
            connection = Connection(sock, device, arguments, numbers)
            threading.Thread(target=connection.run, daemon=True).start()


if __name__ == "__main__":
    main()
