# SPDX-License-Identifier: GPL-2.0-or-later
"""SQLite and PostgreSQL as db_rounds.py has them. Each can create() itself in a folder, begin() to work until kill(),
stumble(): begin a recovery that is killed; and judge() what there is afterwards, which raises Failed.

What each has acknowledged is noted outside of the device."""

import contextlib
import glob
import json
import mmap
import os
import pathlib
import pwd
import random
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import threading

from device_stack import Failed, good, wait_for

KEPT = 200  # transactions whose content is kept; older content is deleted


def judge_numbers(numbers, acknowledged, begun):
    """Of the transactions 1, 2, ... all that were acknowledged are there, and none that was not begun; returns the
    last."""
    last = len(numbers)
    if numbers != list(range(1, last + 1)):
        gap = next(n for n, number in enumerate(numbers, 1) if n != number)
        raise Failed(f"{last} transactions up to {numbers[-1]} are there, but {gap} is not")
    if not acknowledged <= last <= begun:
        raise Failed(f"transactions up to {acknowledged} were acknowledged and up to {begun} begun, {last} is the last "
                     "that is there")
    return last


# ---- SQLite ----

class Sqlite:
    """All that the database holds follows from the number of its last transaction."""
    ACCOUNTS = 500
    LOG = struct.Struct("=QQQ")  # the process has begun to open the database; transaction begun, acknowledged
    # What makes a commit durable: FULL does not sync the folder after it has deleted the journal.
    SYNCHRONOUS = {"delete": "extra", "wal": "full"}

    def __init__(self, folder, shm, journal="delete", synchronous=None):
        self.path, self.log_path, self.journal = folder / "db", shm / "log", journal
        self.synchronous = synchronous or self.SYNCHRONOUS[journal]
        self.last = self.begun = self.acknowledged = 0
        self.balances, self.process, self.working = [0] * self.ACCOUNTS, None, False

    @classmethod
    def transfer(cls, number):
        rng = random.Random(number)
        length, = rng.choices([10, 1000, 5000, 40000, 300000], [3, 3, 3, 2, 1])
        return *rng.sample(range(cls.ACCOUNTS), 2), rng.randrange(1000), rng.randbytes(length)

    @staticmethod
    def open(path, journal, synchronous):
        db = sqlite3.connect(path, isolation_level=None)
        db.execute(f"PRAGMA journal_mode={journal}")
        db.execute(f"PRAGMA synchronous={synchronous}")
        db.execute("PRAGMA wal_autocheckpoint=200")
        db.execute("PRAGMA cache_size=40")  # pages: larger transactions write to the database before they commit
        return db

    def create(self):
        db = sqlite3.connect(self.path, isolation_level=None)
        db.execute("PRAGMA auto_vacuum=FULL")
        db.close()
        db = self.open(self.path, self.journal, self.synchronous)
        db.executescript("""CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER);
                            CREATE TABLE done(number INTEGER PRIMARY KEY, amount INTEGER);
                            CREATE INDEX amounts ON done(amount);
                            CREATE TABLE data(number INTEGER PRIMARY KEY, content BLOB)""")
        db.executemany("INSERT INTO account VALUES (?, 0)", [(n,) for n in range(self.ACCOUNTS)])
        db.close()

    @classmethod
    def commit(cls, db, number):
        giver, taker, amount, content = cls.transfer(number)
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO data VALUES (?, ?)", (number, content))
        db.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (amount, giver))
        db.execute("DELETE FROM data WHERE number = ?", (number - KEPT,))
        db.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, taker))
        db.execute("INSERT INTO done VALUES (?, ?)", (number, amount))
        db.execute("COMMIT")

    @classmethod
    def child(cls, path, log_path, journal, synchronous, number):
        """The process that is killed."""
        with open(log_path, "r+b") as f:
            log = mmap.mmap(f.fileno(), 0)
        cls.LOG.pack_into(log, 0, 1, number or 0, number or 0)
        db = cls.open(path, journal, synchronous)
        db.execute("SELECT count(*) FROM data").fetchone()
        while number is None:  # only to recover
            signal.pause()
        while True:
            cls.LOG.pack_into(log, 0, 1, number + 1, number)
            cls.commit(db, number + 1)
            number += 1
            cls.LOG.pack_into(log, 0, 1, number, number)

    def noted(self):
        return self.LOG.unpack(self.log_path.read_bytes())

    def start(self, number):
        self.log_path.write_bytes(bytes(self.LOG.size))
        want = [str(self.path), str(self.log_path), self.journal, self.synchronous, number]
        self.process = subprocess.Popen([sys.executable, "-B", __file__, json.dumps(want)], stderr=subprocess.PIPE)

    def begin(self, _rng):
        self.start(self.last)
        self.working = True
        wait_for("SQLite has committed", lambda: self.noted()[2] > self.last or self.ended())

    def stumble(self, rng):
        """Starts what the kill is to meet in its recovery; returns how many seconds to give it."""
        self.start(None)
        wait_for("SQLite is about to open", lambda: self.noted()[0] or self.ended())
        return rng.uniform(0, 0.05)

    def ended(self):
        if self.process.poll() is None:
            return None
        return f"the process ended with {self.process.returncode}: {self.process.stderr.read().decode()}"

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.communicate(timeout=60)
            self.process = None
        if self.working:
            _, self.begun, self.acknowledged = self.noted()
            self.working = False

    def judge(self):
        left = sum(os.path.getsize(path) for path in glob.glob(f"{self.path}-*"))
        try:
            with contextlib.closing(self.open(self.path, self.journal, self.synchronous)) as db:
                found = "; ".join(row[0] for row in db.execute("PRAGMA integrity_check"))
                if found != "ok":
                    raise Failed(f"integrity_check: {found}")
                said = self.judge_content(db)
        except sqlite3.Error as error:
            raise Failed(f"SQLite: {error}") from error
        return f"{said}, a journal of {left} bytes was there"

    def judge_content(self, db):
        was, begun, acknowledged = self.last, self.begun, self.acknowledged
        self.last = judge_numbers([row[0] for row in db.execute("SELECT number FROM done ORDER BY number")],
                                  acknowledged, begun)
        for number in range(was + 1, self.last + 1):
            giver, taker, amount, _ = self.transfer(number)
            self.balances[giver] -= amount
            self.balances[taker] += amount
        got = [row[0] for row in db.execute("SELECT balance FROM account ORDER BY id")]
        if sum(got) != 0 or got != self.balances:
            wrong = [n for n, (a, b) in enumerate(zip(got, self.balances)) if a != b]
            raise Failed(f"{len(got)} accounts, their sum is {sum(got)}; other balances than after transaction "
                         f"{self.last}: {wrong[:10]}")
        content = dict(db.execute("SELECT number, content FROM data"))
        want = range(max(1, self.last - KEPT + 1), self.last + 1)
        if sorted(content) != list(want):
            raise Failed(f"of {len(want)} contents {len(content)} are there")
        for number in want:
            if content[number] != self.transfer(number)[3]:
                raise Failed(f"the content of transaction {number} is another")
        return f"{acknowledged - was} commits, {self.last - acknowledged} more"


# ---- PostgreSQL ----

class Numbered(threading.Thread):
    """A client that commits numbered transactions, one at a time, until the server is gone."""

    def __init__(self, psql, last, accounts):
        super().__init__(daemon=True)
        self.last, self.accounts = last, accounts
        self.psql = subprocess.Popen([*psql, "-v", "ON_ERROR_STOP=1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, text=True,
                                     errors="replace", bufsize=1)
        self.said = ""
        self.start()

    def run(self):
        try:
            while self.commit(self.last + 1):
                self.last += 1
        except BrokenPipeError:
            pass

    def commit(self, number):
        rng = random.Random(number)
        one, other = sorted(rng.sample(range(1, self.accounts + 1), 2))
        amount = rng.randrange(1000)
        self.psql.stdin.write(
            f"BEGIN; INSERT INTO promised VALUES ({number}, content({number}));"
            f"UPDATE pgbench_accounts SET abalance = abalance - {amount} WHERE aid = {one};"
            f"UPDATE promised SET content = NULL WHERE number = {number - KEPT};"
            f"UPDATE pgbench_accounts SET abalance = abalance + {amount} WHERE aid = {other}; COMMIT;\n")
        for line in self.psql.stdout:
            if line == "COMMIT\n":
                return True
            if not re.match("BEGIN|INSERT|UPDATE", line):
                self.said += line
        return False

    def end(self):
        """When the server is gone. psql first says all that it was answered."""
        self.join(60)
        self.psql.kill()
        self.psql.communicate(timeout=60)


class Postgresql:
    """pgbench with four clients, and one of our own beside them."""
    CLIENTS = 4
    # Little WAL: it is checkpointed and written anew again and again. No shared memory outlives the server: its
    # namespace goes with it.
    BUSY = ["max_wal_size=16MB", "min_wal_size=2MB", "autovacuum_naptime=1", "shared_buffers=32MB"]
    ALWAYS = ["listen_addresses=", "fsync=on", "full_page_writes=on", "dynamic_shared_memory_type=sysv",
              "log_checkpoints=off"]

    def __init__(self, folder, sockets, log_path, scale=5, busy=True):
        self.data, self.sockets, self.log_path, self.scale = folder / "data", sockets, log_path, scale
        self.busy, self.settings = busy, self.ALWAYS + (self.BUSY if busy else [])
        self.bin = postgresql_bin()
        self.last = self.history = 0  # as judged: the last numbered transaction, pgbench's transactions
        self.numbered = self.benched = 0  # acknowledged: the last numbered transaction, pgbench's since then
        self.server = self.bench = self.client = None
        self.sockets.mkdir(exist_ok=True)
        shutil.chown(self.sockets, "postgres", "postgres")

    def program(self, name, *arguments):
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", self.bin / name, *arguments]

    def client_of(self, name, *arguments):
        return ["env", "LC_ALL=C", self.bin / name, "-h", self.sockets, "-U", "postgres", *arguments]

    def sql(self, text):
        """The rows of the answer, each a list of its columns' text."""
        said = good(*self.client_of("psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", text))
        return [line.split("|") for line in said.splitlines()]

    def create(self):
        self.data.mkdir()
        shutil.chown(self.data, "postgres", "postgres")
        segments = ["--wal-segsize=1"] if self.busy else []
        good(*self.program("initdb", "-D", self.data, "--data-checksums", *segments, "--auth=trust", "--no-sync",
                           "--no-instructions", "--locale=C", "--encoding=UTF8"), cwd="/")
        self.start()
        self.wait_ready()
        good(*self.client_of("pgbench", "-i", "-q", "-s", self.scale, "postgres"), timeout=600)
        self.sql("CREATE EXTENSION amcheck; CREATE TABLE promised(number bigint PRIMARY KEY, content text);"
                 "ALTER TABLE promised ALTER content SET STORAGE EXTERNAL;"
                 "CREATE INDEX ON promised(md5(content));"
                 "CREATE FUNCTION content(number bigint) RETURNS text IMMUTABLE LANGUAGE SQL AS "
                 "$$ SELECT repeat(md5(number::text), (number % 300)::int + 1) $$")
        self.stop()

    def start(self):
        settings = [word for setting in self.settings for word in ("-c", setting)]
        command = ["unshare", "--ipc", *self.program("postgres", "-D", self.data, "-k", self.sockets, *settings)]
        with open(self.log_path, "ab") as log:
            self.server = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")

    def wait_ready(self):
        def ready():
            asked = subprocess.run(self.client_of("pg_isready", "-q"), check=False, timeout=60)
            return asked.returncode == 0 or self.server.poll() is not None

        wait_for("PostgreSQL is ready", ready)
        if self.server.poll() is not None:
            raise Failed(f"PostgreSQL ended with {self.server.returncode}: {self.tail_of_log()}")

    def tail_of_log(self):
        return self.log_path.read_text(errors="replace")[-2000:]

    def stop(self):
        good(*self.program("pg_ctl", "stop", "-D", self.data, "-m", "fast", "-w"), cwd="/")
        self.server.wait(60)
        self.server = None

    def begin(self, rng):
        self.start()
        self.wait_ready()
        self.bench = subprocess.Popen(
            self.client_of("pgbench", "-n", "-c", str(self.CLIENTS), "-j", "2", "-T", "3600",
                           f"--random-seed={rng.getrandbits(31)}", "postgres"),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        self.client = Numbered(self.client_of("psql", "-X", "postgres"), self.last, 100000 * self.scale)
        wait_for("PostgreSQL has committed", lambda: self.client.last > self.last or self.ended())

    def stumble(self, rng):
        self.start()
        return rng.uniform(0, 1)

    def ended(self):
        if self.server.poll() is not None:
            return f"PostgreSQL ended with {self.server.returncode}: {self.tail_of_log()}"
        if self.bench and self.bench.poll() is not None:
            return f"pgbench ended with {self.bench.returncode}: {self.bench.stdout.read()[-2000:]}"
        if self.client and not self.client.is_alive():
            return f"the client of numbered transactions ended: {self.client.said}"
        return None

    def kill(self):
        """The server with all its processes. The clients outlive it: they know what was acknowledged."""
        if self.server:
            self.server.kill()
            wait_for("PostgreSQL's processes are gone", lambda: not self.killed())
            self.server.wait()
            self.server = None
        if self.client:
            self.client.end()
            self.numbered, self.client = self.client.last, None
        if self.bench:
            said = self.bench.communicate(timeout=60)[0]
            self.bench = None
            counted = re.search("transactions actually processed: ([0-9]+)", said)
            if not counted:
                raise Failed(f"pgbench: {said[-2000:]}")
            self.benched = int(counted[1])

    def killed(self):
        """The processes that are there yet; each has the data as its working directory."""
        found = []
        for link in glob.glob("/proc/[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                if os.readlink(link) == str(self.data):
                    found.append(int(link.split("/")[2]))
                    os.kill(found[-1], signal.SIGKILL)
        return found

    def judge(self):
        replayed = self.log_path.stat().st_size
        self.start()
        self.wait_ready()
        said = self.judge_content()
        good(*self.client_of("pg_amcheck", "--heapallindexed", "--parent-check", "--rootdescend", "-j", "2",
                             "postgres"))
        self.stop()
        good(*self.program("pg_checksums", "--check", "-D", self.data), cwd="/")
        with open(self.log_path, "rb") as f:
            f.seek(replayed)
            done = re.search(rb"redo done at .*elapsed: ([0-9.]+ s)", f.read())
        return f"{said}, redo {done[1].decode() if done else 'not needed'}"

    def judge_content(self):
        numbers = [int(row[0]) for row in self.sql("SELECT number FROM promised ORDER BY number")]
        was, self.last = self.last, judge_numbers(numbers, self.numbered, self.numbered + 1)
        (wrong,), = self.sql("SELECT count(*) FROM promised WHERE content IS DISTINCT FROM "
                             f"CASE WHEN number > {self.last - KEPT} THEN content(number) END")
        if wrong != "0":
            raise Failed(f"{wrong} numbered transactions have another content")
        sums, = self.sql("SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM "
                         "pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches), "
                         "(SELECT coalesce(sum(delta), 0) FROM pgbench_history)")
        if len(set(sums)) != 1:
            raise Failed(f"the sums of accounts, tellers, branches and history differ: {sums}")
        (history,), = self.sql("SELECT count(*) FROM pgbench_history")
        new, self.history = int(history) - self.history, int(history)
        if not self.benched <= new <= self.benched + self.CLIENTS:
            raise Failed(f"pgbench has had {self.benched} commits acknowledged, {new} are there")
        said = (f"{self.numbered - was} + {self.benched} commits, {self.last - self.numbered} + {new - self.benched} "
                "more")
        self.numbered, self.benched = self.last, 0
        return said


def postgresql_bin():
    """The newest one's programs, None: none is installed."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"), key=lambda path: float(path.split("/")[4]))
    return pathlib.Path(found[-1]).parent if found else None


def missing_for(db):
    if db == "sqlite":
        return None
    if not postgresql_bin() or not (postgresql_bin() / "pg_amcheck").exists():
        return "PostgreSQL 14 or newer is missing: scripts/setup"
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        return "there is no user postgres: PostgreSQL does not run as root"
    for tool in ("unshare", "setpriv"):
        if not shutil.which(tool):
            return f"{tool} is missing: scripts/setup"
    return None


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Sqlite.child(*json.loads(sys.argv[1]))
