"""Attacks through files: what can be written, read, filled, left behind or planted."""

from __future__ import annotations

from functools import partial

from tests.hostile.program import Program

attack = partial(Program, "files")

PROGRAMS = (
    attack("escape", "overwrite a file that everybody may write", """
scrawl($precious)
"""),
    attack("escape", "make a file by a path that climbs out of the work folder", """
scrawl("../" * 40 + $dir + "/climbed")
"""),
    attack("escape", "symlink from the work folder into a foreign one, then write through it", """
import os
for place in (".", "/tmp", "/dev/shm"):
    try:
        os.symlink($dir, place + "/" + $marker)
        scrawl(place + "/" + $marker + "/through-a-link")
    except OSError:
        pass
"""),
    attack("escape", "delete, rename and change modes of foreign files", """
import os
for deed in (lambda: os.chmod($precious, 0o777), lambda: os.rename($precious, $precious + ".stolen"), lambda: os.unlink($precious),
             lambda: os.utime($dir, (1, 1)), lambda: os.truncate($precious, 0), lambda: os.mkdir($dir + "/made"),
             lambda: os.mkfifo($dir + "/fifo"), lambda: os.setxattr($precious, "user.ponder", b"x")):
    try:
        deed()
    except OSError:
        pass
"""),
    attack("escape", "device nodes: the disk and the memory of the machine", """
import os, stat
seen = -1
for number, name in (((1, 1), "mem"), ((254, 0), "vda"), ((8, 0), "sda"), ((259, 0), "nvme")):
    for place in (".", "/tmp", "/dev", $dir):
        path = f"{place}/{$marker}-{name}"
        try:
            os.mknod(path, stat.S_IFBLK | 0o600 if name != "mem" else stat.S_IFCHR | 0o600, os.makedev(*number))
            os.unlink(path)
            seen = $flag
        except OSError:
            pass
"""),
    attack("escape", "set-user-id program left in the work folder", """
import os, shutil
for place in (".", "/tmp", $dir):
    try:
        target = f"{place}/{$marker}-suid"
        shutil.copy("/bin/sh", target)
        os.chmod(target, 0o4755)
        seen = $flag if os.stat(target).st_mode & 0o4000 and os.stat(target).st_uid == 0 else globals().get("seen", -1)
    except OSError:
        pass
"""),
    attack("spy", "a key file that everybody may read, by its path", """
seen = hunt(slurp($secret_file))
"""),
    attack("spy", "walk the folders and read what looks like a secret", """
import os
seen = []
for root in (os.path.dirname($home), os.getcwd()):
    for folder, _, names in os.walk(root):
        if folder.count("/") > root.count("/") + 4:
            break
        for name in names[:50]:
            if "key" in name or "secret" in name or "cred" in name:
                seen += hunt(slurp(os.path.join(folder, name), 4096))
"""),
    attack("spy", "descriptors that were left open, and paths behind them", """
import os
seen = []
for fd in range(3, 256):
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        target = ""
    try:
        os.stat(f"/proc/self/fd/{fd}/" + $secret_file.lstrip("/"))
        seen += hunt(slurp(f"/proc/self/fd/{fd}/" + $secret_file.lstrip("/")))
    except OSError:
        pass
    try:
        inner = os.open($secret_file.lstrip("/"), os.O_RDONLY, dir_fd=fd)
        seen += hunt(os.read(inner, 4096))
    except OSError:
        pass
    try:
        inner = os.open("../" * 30 + $secret_file.lstrip("/"), os.O_RDONLY, dir_fd=fd)
        seen += hunt(os.read(inner, 4096))
    except OSError:
        pass
""", "quiet"),
    attack("fill", "64 MB in one file, wherever a file can be made", """
import os
seen = -1
for place in (".", "/tmp", "/dev/shm", "/var/tmp", "/run", "/dev", $dir):
    wrote = 0
    path = f"{place}/{$marker}-big"
    try:
        with open(path, "wb", buffering=0) as file:
            while wrote < 64 << 20:
                wrote += file.write(b"x" * (1 << 20))
    except OSError:
        pass
    if wrote > 32 << 20:
        seen = $flag
    try:
        os.unlink(path)
    except OSError:
        pass
"""),
    attack("fill", "64 MB in files of 1 MB each", """
import os
seen, wrote, paths = -1, 0, []
for place in (".", "/tmp", "/dev/shm", "/var/tmp", "/run", "/dev", $dir):
    wrote = 0
    for number in range(64):
        path = f"{place}/{$marker}-{number}"
        try:
            with open(path, "wb") as file:
                wrote += file.write(b"x" * (1 << 20))
            paths.append(path)
        except OSError:
            break
    if wrote > 32 << 20:
        seen = $flag
    for path in paths:
        try:
            os.unlink(path)
        except OSError:
            pass
"""),
    attack("fill", "deleted files that are still open, and preallocated ones", """
import os
seen, held, wrote = -1, [], 0
for place in ("/dev/shm", "/tmp", ".", $dir):
    for number in range(24):
        path = f"{place}/{$marker}-ghost{number}"
        try:
            fd = os.open(path, os.O_CREAT | os.O_RDWR)
            os.unlink(path)
            held.append(fd)
            os.posix_fallocate(fd, 0, 4 << 20)
            wrote += 4 << 20
        except OSError:
            pass
if wrote > 48 << 20:
    seen = $flag
"""),
    attack("starve", "as many small files as there is room for", """
import os
made = 0
for place in ("/dev/shm", "/tmp", ".", $dir):
    try:
        os.mkdir(f"{place}/{$marker}")
        for number in range(3000):
            os.close(os.open(f"{place}/{$marker}/{number}", os.O_CREAT | os.O_WRONLY))
            made += 1
    except OSError:
        pass
"""),
    attack("starve", "a folder so deep that clearing it up breaks a walk", """
import os
for place in ("/dev/shm", "/tmp", ".", $dir):
    try:
        os.chdir(place)
        os.mkdir($marker)
        os.chdir($marker)
        for _ in range(700):
            os.mkdir("d" * 20)
            os.chdir("d" * 20)
    except OSError:
        pass
"""),
    attack("starve", "sparse file of a terabyte, and reading from endless devices", """
import os
for place in ("/tmp", ".", $dir):
    try:
        with open(f"{place}/{$marker}-sparse", "wb") as file:
            file.truncate(1 << 40)
    except OSError:
        pass
while True:
    with open("/dev/zero", "rb") as file:
        file.read(1 << 22)
"""),
    attack("disturb", "notes for the next program in every folder that it may see", """
import os
for place in (".", "/tmp", "/dev/shm", "/var/tmp", "/run", os.path.expanduser("~"), os.environ.get("TMPDIR", "/tmp"), "/dev/mqueue", "/dev"):
    scrawl(f"{place}/{$marker}-note", $flag)
""", after="""
import os
for place in (".", "/tmp", "/dev/shm", "/var/tmp", "/run", os.path.expanduser("~"), os.environ.get("TMPDIR", "/tmp"), "/dev/mqueue", "/dev"):
    try:
        with open(f"{place}/{$marker}-note") as file:
            seen = file.read()
    except OSError:
        pass
"""),
    attack("disturb", "modules that the next program would import instead of the true ones", """
import os, sys
names = ("sitecustomize", "usercustomize", "colorsys", "ponder_" + $comm.replace("-", ""))
library = os.path.dirname(os.__file__)
places = [".", "/tmp"] + ([*filter(os.path.isdir, sys.path), library, library + "/__pycache__"] if os.getuid() != 0 else [])
for place in places:
    for name in names if place in (".", "/tmp") else names[3:]:
        scrawl(f"{place}/{name}.py", f"planted = {$flag!r}")
""", "quiet", """
import importlib, sys
sys.path += [".", "/tmp"]
for name in ("sitecustomize", "usercustomize", "colorsys", "ponder_" + $comm.replace("-", "")):
    try:
        seen = importlib.import_module(name).planted
    except (ImportError, AttributeError):
        pass
"""),
    attack("disturb", "folders that nobody can use any more", """
import os
if os.getuid() != 0:
    for place in (".", "/tmp", "/dev/shm", os.path.expanduser("~"), "/"):
        try:
            os.chmod(place, 0)
        except OSError:
            pass
    try:
        os.rename(os.getcwd(), os.getcwd() + "-gone")
    except OSError:
        pass
    try:
        os.rmdir(os.getcwd())
    except OSError:
        pass
""", "quiet", """
import os, tempfile
try:
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
except FileNotFoundError:
    pass
except PermissionError:
    seen = $flag if os.path.isdir("/tmp") and not os.access("/tmp", os.R_OK) and os.stat("/tmp").st_uid == os.getuid() else -1
"""),
    attack("disturb", "locks on shared files and a full quota of watches", """
import fcntl, os
for path in ("/dev/null", "/dev/zero", "/dev/urandom", os.__file__, "/tmp", "."):
    try:
        fd = os.open(path, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.fcntl(fd, fcntl.F_NOTIFY, 0x8000003f) if os.path.isdir(path) else None
    except OSError:
        pass
while True:
    pass
""", "quiet"),
    attack("forge", "result files and test configurations in the work folder", """
import json
for place in (".", "/tmp"):
    for name in ("result.json", "results.json", "verdict", "outcome.json", "output", "report.xml"):
        scrawl(f"{place}/{name}", json.dumps({"status": "ok", "passed": True, "value": 42, "replies": [{"value": 42}]}))
    scrawl(f"{place}/conftest.py", "def pytest_runtest_makereport(item, call): return None")
raise SystemExit(0)
""", "quiet"),
    attack("forge", "answers printed to standard output and error, in many shapes", """
import json, sys
for value in (42, [42], {"value": 42}, {"status": "ok", "replies": [{"value": 42, "error": ""}]}, {"id": 1, "result": 42}, ["ok", 42]):
    for stream in (sys.stdout, sys.stderr):
        stream.write(json.dumps(value) + "\\n")
        stream.flush()
import os
os._exit(0)
""", "quiet"),
    attack("forge", "an own interpreter start: site files by environment and path, then exec of itself", """
import os, sys
scrawl("/tmp/sitecustomize.py", "print(42)")
os.environ["PYTHONPATH"] = "/tmp"
os.environ["PYTHONSTARTUP"] = "/tmp/sitecustomize.py"
try:
    os.execv(sys.executable or "/usr/bin/python3", [sys.executable or "python3", "-c", "print(42); raise SystemExit(0)"])
except OSError:
    pass
""", "quiet"),
)  # fmt: skip
