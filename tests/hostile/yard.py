"""The canaries: files, secrets, doors and a process that no program may touch, and what became of them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import FrameType, TracebackType

from tests.hostile import machine

SHARED = ("/tmp", "/dev/shm", "/var/tmp", "/run", "/dev", "/dev/mqueue")
PLANTED = (
    "sitecustomize.py",
    "usercustomize.py",
    "colorsys.py",
    "conftest.py",
    "result.json",
    "results.json",
    "verdict",
    "outcome.json",
    "report.xml",
)
SECRET = "PONDER_CANARY"


def secret() -> str:
    """One of the texts that programs hunt for."""
    return "pcny-" + secrets.token_hex(16)


class Yard:
    """One per judge. `places` prepares it for a program, `findings` says what that program did to it and mends it."""

    def __enter__(self) -> Yard:
        self.root = Path(tempfile.mkdtemp(prefix="ponder-hostile-"))
        self.root.chmod(0o755)
        self.home = self.root / "home"
        (self.home / ".config").mkdir(parents=True)
        self.secret_file = self.home / ".config" / "secret-key"
        self.of_file, self.of_victim, self.of_arguments = secret(), secret(), secret()
        self.secrets = {"the judge's environment": os.environ.get(SECRET, secret())}
        self.secrets |= {"a file": self.of_file, "a foreign environment": self.of_victim, "foreign arguments": self.of_arguments}
        self.secret_file.write_text(self.of_file)
        self.secret_file.chmod(0o644)
        self.abstract = "ponder-" + secrets.token_hex(8)
        self.doors: dict[str, socket.socket] = {}
        self.open_doors()
        self.hail()
        self.signals: list[int] = []
        signal.signal(signal.SIGUSR1, self.heard)
        self.settings = {path: machine.text(path) for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname")}
        self.before = {(place, name) for place in SHARED for name in PLANTED if Path(place, name).exists()}
        self.judge = machine.condition(os.getpid())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for door in self.doors.values():
            door.close()
        self.victim.kill()
        self.victim.wait()
        subprocess.run(["rm", "-rf", str(self.root)], check=False)

    def heard(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(number)

    def open_doors(self) -> None:
        for name, family, kind, address in (
            ("TCP", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            ("UDP", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            ("unix", socket.AF_UNIX, socket.SOCK_STREAM, str(self.root / "door")),
            ("abstract", socket.AF_UNIX, socket.SOCK_STREAM, f"\0{self.abstract}"),
            ("abstract datagram", socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{self.abstract}-d"),
            ("abstract packet", socket.AF_UNIX, socket.SOCK_SEQPACKET, f"\0{self.abstract}-s"),
        ):
            door = self.doors[name] = socket.socket(family, kind)
            door.bind(address)
            if kind != socket.SOCK_DGRAM:
                door.listen(64)
            door.setblocking(False)
        (self.root / "door").chmod(0o777)

    def hail(self) -> None:
        """A process of the machine, with a secret in its environment, its arguments and an open file."""
        with self.secret_file.open() as held:
            self.victim = subprocess.Popen(
                [self.of_arguments, "900"],  # should the judge be killed, it ends by itself
                executable=shutil.which("sleep"),
                env={SECRET: self.of_victim},
                stdin=held,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.sound = machine.condition(self.victim.pid)

    def places(self) -> dict[str, str | int]:
        """Where a program finds the canaries; its mark and its flag are its own."""
        mark = "ph-" + secrets.token_hex(4)
        folder = self.root / mark
        folder.mkdir()
        folder.chmod(0o777)
        precious = folder / "precious"
        precious.write_text("precious")
        precious.chmod(0o666)
        return {
            "dir": str(folder), "precious": str(precious), "home": str(self.home), "secret_file": str(self.secret_file),
            "tcp": self.doors["TCP"].getsockname()[1], "udp": self.doors["UDP"].getsockname()[1], "unix": str(self.root / "door"),
            "abstract": self.abstract, "victim": self.victim.pid, "judge": os.getpid(), "marker": mark, "comm": mark,
            "flag": secrets.token_hex(12), "key": 20000 + secrets.randbelow(12000),
        }  # fmt: skip

    def findings(self, places: dict[str, str | int]) -> list[str]:
        """What can be seen from outside of one program's work."""
        mark = str(places["marker"])
        found = [*self.visitors(), *self.on_disk(places), *machine.ipc_left(int(places["key"]), mark), *self.harm()]
        for path, value in self.settings.items():
            now = machine.text(path)
            if mark in now:
                found.append(f"changed {path}")
            if now != value:
                with contextlib.suppress(OSError):
                    Path(path).write_text(value)
        return found

    def visitors(self) -> list[str]:
        found = []
        for name, door in self.doors.items():
            with contextlib.suppress(OSError):
                while True:
                    if door.type == socket.SOCK_DGRAM:
                        door.recv(65536)
                    else:
                        door.accept()[0].close()
                    found.append(f"reached the {name} door")
        return sorted(set(found))

    def on_disk(self, places: dict[str, str | int]) -> list[str]:
        found, folder, mark = [], Path(str(places["dir"])), str(places["marker"])
        try:
            if Path(str(places["precious"])).read_text() != "precious" or folder.stat().st_mode & 0o777 != 0o777:
                found.append("changed a file")
            if folder.stat().st_mtime < 1e6 or os.listxattr(str(places["precious"])):
                found.append("changed attributes")
            found += [f"made {entry.name}" for entry in folder.iterdir() if entry.name != "precious"]
        except OSError as error:
            found.append(f"took a file away ({type(error).__name__})")
        subprocess.run(["rm", "-rf", str(folder)], check=False)
        for place in SHARED:
            if not Path(place).is_dir():
                continue
            for name in os.listdir(place):
                planted = name in PLANTED and (place, name) not in self.before
                if mark in name or planted:
                    found.append(f"left {place}/{name.replace(mark, 'MARK')}")
                    subprocess.run(["rm", "-rf", f"{place}/{name}"], check=False)
        return found

    def harm(self) -> list[str]:
        found = ["signalled the judge"] if self.signals else []
        self.signals.clear()
        now = machine.condition(self.victim.pid)
        if now != self.sound:
            found.append(
                "harmed a process: "
                + ", ".join(f"{key} {self.sound[key]} -> {now.get(key)}" for key in self.sound if now.get(key) != self.sound[key])
            )
            self.victim.kill()
            self.victim.wait()
            self.hail()
        judge = machine.condition(os.getpid())
        if judge != self.judge:
            found.append("harmed the judge: " + ", ".join(key for key in judge if judge[key] != self.judge.get(key)))
            with contextlib.suppress(OSError):
                Path("/proc/self/oom_score_adj").write_text(self.judge.get("oom", "0"))
            self.judge = machine.condition(os.getpid())
        return found
