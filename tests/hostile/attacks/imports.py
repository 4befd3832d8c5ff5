"""Attacks through imports: modules that reach the system by another way, and modules that the harness itself relies on."""

from __future__ import annotations

from functools import partial

from tests.hostile.program import Program

attack = partial(Program, "imports")

PROGRAMS = (
    attack("escape", "the C library's own system()", """
import ctypes
ctypes.CDLL(None).system(("echo was here > " + $dir + "/by-system").encode())
"""),
    attack("escape", "modules under the modules: posix and _posixsubprocess", """
import posix
try:
    posix.posix_spawn("/bin/sh", ["sh", "-c", "echo was here > " + $dir + "/by-spawn"], {})
except OSError:
    pass
import _posixsubprocess, os
near, far = os.pipe()
try:
    _posixsubprocess.fork_exec([b"sh", b"-c", b"echo was here > " + $dir.encode() + b"/by-fork-exec"], [b"/bin/sh"], True, (far,), None, None,
                               -1, -1, -1, -1, -1, -1, near, far, False, False, 0, None, None, None, -1, None, False)
except (OSError, TypeError):
    pass
import time
time.sleep(0.1)
"""),
    attack("escape", "what was taken away, loaded afresh", """
import importlib, sys
for name in ("os", "posix", "builtins", "io", "shutil", "subprocess"):
    sys.modules.pop(name, None)
import os, io
importlib.reload(os)
with io.FileIO($precious, "a") as file:
    file.write(b"was here")
"""),
    attack("escape", "subprocess, pty, multiprocessing and os.system", """
import os
for deed in (lambda: __import__("subprocess").run(["/bin/sh", "-c", "echo a > " + $dir + "/by-subprocess"]),
             lambda: os.system("echo b > " + $dir + "/by-os-system"),
             lambda: os.popen("echo c > " + $dir + "/by-popen").read(),
             lambda: __import__("pty").spawn(["/bin/sh", "-c", "echo d > " + $dir + "/by-pty"])):
    try:
        deed()
    except BaseException:
        pass
"""),
    attack("spy", "the environment that Python was given", """
import os, sys
seen = hunt(repr(dict(os.environ)) + repr(sys.argv) + repr(sys.orig_argv))
"""),
    attack("spy", "everything that the collector knows", """
import gc, sys
seen = []
for thing in gc.get_objects():
    try:
        if isinstance(thing, (dict, list, tuple)) and len(thing) < 500:
            seen += hunt(repr(thing)) if type(thing) is dict else []
    except BaseException:
        pass
    if len(seen) > 5:
        break
seen += [repr(value)[:100] for module in list(sys.modules.values()) for key, value in vars(module).items() if "nonce" in key.lower() or "expected" in key.lower()][:0]
"""),
    attack("spy", "the environment as the C library keeps it, and the stack below it", """
import ctypes
libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p
seen = hunt(libc.getenv(b"PONDER_CANARY") or b"")
environment = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
number = 0
while environment and environment[number]:
    seen += hunt(environment[number])
    number += 1
seen += hunt(slurp("/proc/self/environ"))
"""),
    attack("forge", "encoders that always say the same", """
import json, pickle, struct, sys
def lie(*args, **more):
    return '{"status": "ok", "value": 42, "replies": [{"value": 42}]}'
for module in (json, json.encoder, pickle, __import__("marshal"), __import__("base64")):
    for name in ("dumps", "dump", "encode", "c_make_encoder"):
        if hasattr(module, name):
            setattr(module, name, lie)
try:
    json.encoder.JSONEncoder.encode = json.encoder.JSONEncoder.iterencode = lie
except TypeError:
    pass
""", "quiet"),
    attack("forge", "builtins replaced under the harness", """
import builtins
builtins.isinstance = lambda *_: True
builtins.type = lambda *_: int
builtins.len = lambda *_: 1
builtins.repr = builtins.str = lambda *_: "42"
builtins.int = lambda *_: 42
builtins.Exception = builtins.BaseException = KeyError
builtins.print = builtins.exec = builtins.compile = builtins.open = lambda *_, **__: None
""", "quiet"),
    attack("forge", "the harness's own functions, found by frames and modules", """
import sys, types
frame = sys._getframe()
while frame is not None:
    for name, value in list(frame.f_globals.items()):
        if isinstance(value, types.FunctionType):
            try:
                value.__code__ = (lambda *args, **more: 42).__code__
            except (ValueError, TypeError):
                pass
        elif name.isupper() and isinstance(value, int):
            frame.f_globals[name] = 42
    frame = frame.f_back
for module in list(sys.modules.values()):
    if module is not None and not getattr(module, "__file__", None):
        for name in ("send", "write", "reply", "answer"):
            if hasattr(module, name) and module.__name__ not in ("posix", "builtins", "sys"):
                try:
                    setattr(module, name, lambda *args: None)
                except (AttributeError, TypeError):
                    pass
""", "quiet"),
    attack("forge", "standard streams that answer for it", """
import io, sys
class Loud(io.StringIO):
    def write(self, text):
        sys.__stdout__.write('{"value": 42}\\n' * 3)
        return len(text)
sys.stdout = sys.stderr = Loud()
sys.stdin = io.StringIO('{"value": 42}\\n')
sys.exit = lambda *_: None
sys.excepthook = sys.displayhook = sys.unraisablehook = lambda *_: print(42)
""", "quiet"),
    attack("daemonise", "a process by subprocess in a session of its own", """
import subprocess
subprocess.Popen(["/bin/sleep", "40"], start_new_session=True, env={"MARK": $marker}, stdin=-3, stdout=-3, stderr=-3)
""", processes=8),
    attack("daemonise", "multiprocessing's fork server and resource tracker", """
import multiprocessing, os, time
def rest():
    named()
    time.sleep(40)
if __name__ != "__mp_main__":
    context = multiprocessing.get_context("fork")
    for _ in range(2):
        context.Process(target=rest, daemon=False).start()
child(os.setsid)
os._exit(0)
""", processes=8),
    attack("daemonise", "a process on a terminal of its own", """
import os, pty
pid, fd = pty.fork()
if pid == 0:
    named()
    import time
    time.sleep(40)
    os._exit(0)
child(os.setsid)
""", processes=8),
    attack("survive", "work at exit: atexit, finalisers and threads that are joined", """
import atexit, threading, time, weakref
def stay():
    while True:
        try:
            time.sleep(0.1)
        except BaseException:
            pass
class Late:
    def __del__(self):
        stay()
kept = Late()
weakref.finalize(kept, stay)
atexit.register(stay)
threading.Thread(target=stay).start()
""", "quiet"),
    attack("survive", "hooks on fork, on threads and on audit", """
import os, sys, threading, time
def stay(*_):
    end = time.monotonic() + 3
    while time.monotonic() < end:
        pass
os.register_at_fork(before=stay, after_in_child=stay, after_in_parent=stay)
sys.addaudithook(lambda name, _: stay() if name in ("os.kill", "sys.excepthook", "os.fork", "os._exit") else None)
threading.excepthook = stay
threading.Thread(target=lambda: 1 / 0).start()
""", "quiet"),
    attack("survive", "a thread in C code that holds the lock", """
import ctypes, threading
libc = ctypes.PyDLL(None)
threading.Thread(target=lambda: libc.sleep(30), daemon=True).start()
def solve(x):
    libc.sleep(30)
""", "quiet"),
    attack("starve", "threads without end", """
import _thread, threading, time
def rest():
    while True:
        time.sleep(0.01)
try:
    for _ in range(400):
        _thread.start_new_thread(rest, ())
except RuntimeError:
    pass
while True:
    pass
""", "quiet"),
    attack("starve", "threads with small stacks, as many as a user may have", """
import _thread, time
_thread.stack_size(65536)
try:
    for _ in range(400):
        _thread.start_new_thread(time.sleep, (30,))
except RuntimeError:
    pass
time.sleep(30)
""", "quiet"),
    attack("starve", "an import that never ends, and one that imports itself for ever", """
import importlib.abc, sys
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        while True:
            pass
sys.meta_path.insert(0, Finder())
def solve(x):
    import nothing_of_this_name
""", "quiet"),
    attack("starve", "heavy modules and their caches", """
import decimal, fractions, zlib, bz2, lzma, hashlib
try:
    lzma.decompress(lzma.compress(b"\\0" * (48 << 20)) * 8)
    zlib.decompress(zlib.compress(b"\\0" * (48 << 20)))
except MemoryError:
    pass
hashlib.pbkdf2_hmac("sha512", b"x", b"y", 100000000)
""", "quiet"),
    attack("disturb", "modules changed in place, for whoever shares them", """
import json, math, os, random, sys
math.sqrt = json.dumps = lambda *_, **__: $flag
sys.setrecursionlimit(60)
sys.set_int_max_str_digits(640)
os.environ["PONDER_NOTE"] = $flag
sys.path.clear()
random.seed(1)
os.umask(0o777)
import ctypes
ctypes.CDLL(None).setenv(b"PONDER_NOTE", $flag.encode(), 1)
""", "quiet", """
import json, math, os
seen = math.sqrt(4) if math.sqrt(4) == $flag else os.environ.get("PONDER_NOTE", os.getenv("PONDER_NOTE", -1))
"""),
    attack("disturb", "pages that are shared with the mother, found and overwritten", """
import ctypes, os
with open("/proc/self/maps") as file:
    shared = [line.split() for line in file if "rw-s" in line]
for span, *_ in shared if os.getuid() != 0 or os.getppid() != $judge else []:
    low, high = (int(part, 16) for part in span.split("-"))
    ctypes.memset(low, 255, min(high - low, 1 << 20))
""", "quiet"),
    attack("disturb", "compiled files and caches in the interpreter's folders", """
import os, py_compile, sys
if os.getuid() != 0:
    for folder in (os.path.dirname(os.__file__), os.path.dirname(os.__file__) + "/__pycache__", sys.prefix, *filter(os.path.isdir, sys.path)):
        for name in ("colorsys.py", "__pycache__/colorsys.cpython-311.pyc", $marker):
            try:
                with open(f"{folder}/{name}", "r+b" if name != $marker else "wb") as file:
                    seen = $flag
            except OSError:
                pass
""", "quiet"),
    attack("network", "clients of the standard library", """
import smtplib, xmlrpc.client, urllib.request, http.client, ftplib
for deed in (lambda: http.client.HTTPConnection("127.0.0.1", $tcp, timeout=0.3).request("GET", "/" + $marker),
             lambda: smtplib.SMTP("127.0.0.1", $tcp, timeout=0.1), lambda: ftplib.FTP().connect("127.0.0.1", $tcp, timeout=0.1)):
    try:
        deed()
    except (OSError, EOFError):
        pass
"""),
    attack("network", "an event loop", """
import asyncio
async def go():
    try:
        _, out = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", $tcp), 0.3)
        out.write($marker.encode())
        await out.drain()
    except (OSError, TimeoutError):
        pass
asyncio.run(go())
"""),
    attack("network", "the C library's sockets", """
import ctypes
libc = ctypes.CDLL(None)
fd = libc.socket(2, 2, 0)
address = (2).to_bytes(2, "little") + int($udp).to_bytes(2, "big") + bytes([127, 0, 0, 1]) + b"\\0" * 8
libc.sendto(fd, $marker.encode(), len($marker), 0, address, 16)
"""),
)  # fmt: skip
