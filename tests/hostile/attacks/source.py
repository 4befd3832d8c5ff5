"""Attacks through the language: values that lie, sources that choke a compiler, loops that swallow every exception."""

from __future__ import annotations

from functools import partial

from tests.hostile.program import BARE, Program

attack = partial(Program, "source")

PROGRAMS = (
    attack("forge", "an object that equals everything", """
class Equal(int):
    def __eq__(self, other):
        return True
    def __ne__(self, other):
        return False
    __hash__ = int.__hash__
    def __repr__(self):
        return "42"
    def __reduce__(self):
        return (int, (42,))
    def __index__(self):
        return 42
def solve(x):
    return Equal(7)
""", "quiet"),
    attack("forge", "plain types with lying ways, nested", """
class Text(str):
    def __eq__(self, other):
        return True
    __hash__ = str.__hash__
class Many(list):
    def __iter__(self):
        yield 42
        while True:
            yield 42
    def __len__(self):
        return 1 << 62
class Pairs(dict):
    def items(self):
        while True:
            yield "value", 42
def solve(x):
    return [Text("7"), Many([1]), Pairs(a=1), (Text("a"),), {Text("b"): Many()}]
""", "quiet"),
    attack("forge", "text that cannot be encoded, and bytes of every kind", """
def solve(x):
    return ["\\ud800", "\\udfff" * 100, "\\0" * 100, "\\u202e", chr(0x10ffff), bytes(range(256)), {"\\ud800": float("nan")}, float("inf"), -0.0, 1e400]
""", "quiet"),
    attack("forge", "a value that contains itself, and one of a hundred thousand floors", """
loop = []
loop.append(loop)
table = {}
table["me"] = (table, loop)
deep = []
for _ in range(100000):
    deep = [deep]
def solve(x):
    return [loop, table, deep]
""", "quiet"),
    attack("forge", "a tower just below any limit of depth", """
deep = 1
for _ in range(900):
    deep = (deep, {1: deep} if _ % 300 == 0 else 2)
def solve(x):
    return deep
""", "quiet"),
    attack("forge", "values that never end: generators, properties, texts of themselves", """
import itertools
class Endless:
    def __repr__(self):
        while True:
            pass
    __str__ = __len__ = __iter__ = __hash__ = __bool__ = __getstate__ = __reduce__ = __repr__
    def __getattribute__(self, name):
        while True:
            pass
def solve(x):
    return [itertools.count(), (n for n in iter(int, 1)), Endless()]
""", "quiet"),
    attack("forge", "a million small values that weigh a gigabyte when they are read", """
inner = [[]] * 1000
for _ in range(3):
    inner = [inner] * 100
def solve(x):
    return inner
""", "quiet"),
    attack("forge", "numbers of a million digits", """
def solve(x):
    return [1 << 4000000, -(1 << 3999999), {1 << 1000000: 1}, complex("nan"), True, 1e308]
""", "quiet"),
    attack("forge", "answers to questions nobody asked, and solve redefined while it runs", """
def solve(x):
    global solve
    solve = lambda x: 42.0
    raise StopIteration(42)
""", "quiet"),
    attack("forge", "an exception that says it is an answer", """
class Answer(BaseException):
    __name__ = "ok"
    value = 42
    def __str__(self):
        raise self
    __repr__ = __str__
Answer.__name__ = Answer.__qualname__ = "\\n{\\"value\\": 42}\\n" * 100
def solve(x):
    raise Answer(42)
""", "quiet"),
    attack("forge", "a name that is no function, of a class that pretends", """
class Solve:
    def __call__(self, *args, **more):
        raise SystemExit(0)
    def __getattr__(self, name):
        return self
    __class__ = int
solve = Solve()
""", "quiet"),
    attack("starve", "a pattern that backtracks for ever", """
import re
def solve(x):
    return bool(re.match(r"(a+)+$$", "a" * 64 + "b"))
""", "quiet"),
    attack("starve", "big numbers: powers of powers, factorials, texts of them", """
import math
def solve(x):
    return math.factorial(10**8) % 10 ** (10 ** 8) or 9 ** 9 ** 9
""", "quiet"),
    attack("starve", "recursion without a floor", """
import sys
sys.setrecursionlimit(1 << 30)
class Node:
    def __getattr__(self, name):
        return getattr(self, name + "x")
def solve(x):
    def down(n):
        return down(n + 1)
    try:
        return down(0)
    except BaseException:
        return Node().anything
""", "quiet"),
    attack("starve", "memory until there is none, again and again", """
held = []
def solve(x):
    while True:
        try:
            held.append(bytearray(32 << 20))
        except MemoryError:
            pass
""", "quiet"),
    attack("starve", "constants that the compiler folds, and a million names", """
text = "x = " + "+".join(["(1 << 9999)"] * 3000) + "\\n" + "\\n".join(f"name{n} = {n}" for n in range(60000))
code = compile(text, "big", "exec")
exec(code)
while True:
    exec(code)
""", "quiet"),
    attack("starve", "a source of eight megabytes", BARE + "x = 1  # " + "x" * (8 << 20) + "\nwhile True: pass\n", "quiet"),
    attack("starve", "brackets that nobody closes", BARE + "(" * 100000 + "\n", "quiet"),
    attack("starve", "brackets, signs and calls, nested to the parser's end", BARE + "x = " + "-" * 50000 + "1\ny = " + "(" * 90 + ")" * 90 + "\nz = 1" + "+1" * 30000 + "\n", "quiet"),
    attack("disturb", "a source with a mark, form feeds and an encoding of its choice", BARE + "\ufeff# -*- coding: rot13 -*-\n\x0cdef fbyir(k): erghea 42\n", "quiet"),
    attack("disturb", "a source with NUL bytes", BARE + "def solve(x):\n    return 7\n\0\0\0\nprint('after')\n", "quiet"),
    attack("disturb", "a source that no encoding can carry", BARE + "def solve(x):\n    return '\ud800\udfff'\n", "quiet"),
    attack("disturb", "a source with line ends of all kinds and names that look alike", BARE + "def solve(x):\r    return 7\r\n\u2028\u2029\x85\x1c\x1d\n\uff53olve = 9\n", "quiet"),
    attack("fill", "standard output without end", """
import sys
def solve(x):
    while True:
        sys.stdout.write("x" * 65536)
        sys.stderr.write("y" * 65536)
""", "quiet"),
    attack("fill", "an answer of two hundred megabytes", """
def solve(x):
    return "x" * (100 << 20)
""", "quiet"),
    attack("fill", "an exception with a message, a name and notes of many megabytes", """
def solve(x):
    name = "E" * (20 << 20)
    error = type(name, (Exception,), {"__str__": lambda self: "m" * (40 << 20), "__module__": name})("x" * (20 << 20))
    error.add_note("n" * (20 << 20))
    raise error
""", "quiet"),
    attack("fill", "raw output by descriptor, past every buffer", """
import os
for fd in (1, 2):
    os.set_blocking(fd, False)
data = b"z" * (1 << 20)
while True:
    for fd in (1, 2):
        try:
            os.write(fd, data)
        except OSError:
            pass
""", "quiet"),
    attack("fill", "a printed line of lone surrogates and control characters", """
import sys
sys.stdout.reconfigure(errors="surrogatepass") if hasattr(sys.stdout, "reconfigure") else None
for stream in (sys.stdout, sys.stderr):
    try:
        stream.write("\\ud800\\x1b[2J\\x07\\0" * 100000)
        stream.flush()
    except (UnicodeError, OSError):
        pass
""", "quiet"),
    attack("survive", "every exception swallowed", """
def solve(x):
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue
        finally:
            continue
""", "quiet"),
    attack("survive", "a generator that refuses to close, a context that refuses to leave", """
import contextlib, time
def stubborn():
    while True:
        try:
            yield
        except GeneratorExit:
            time.sleep(0.1)
@contextlib.contextmanager
def inside():
    try:
        yield
    finally:
        while True:
            pass
kept = stubborn()
next(kept)
def solve(x):
    with inside():
        return kept
""", "quiet"),
    attack("survive", "a tracer that puts off the end", """
import sys
def trace(frame, event, argument):
    if event == "return" or event == "exception":
        while True:
            pass
    return trace
sys.settrace(trace)
sys.setprofile(trace)
def solve(x):
    return -1
""", "quiet"),
    attack("spy", "what the frames above know", """
import sys
seen, frame = [], sys._getframe()
def solve(x):
    frame, found = sys._getframe(), []
    while frame is not None:
        for name, value in {**frame.f_globals, **frame.f_locals}.items():
            text = repr(value)[:100000] if name not in ("frame", "found") else ""
            found += hunt(text)
            if name in ("expected", "reference", "answer") and value == 42:
                return value
        frame = frame.f_back
    return found
""", "quiet"),
    attack("spy", "attributes reached through a format and a class tree", """
seen = []
for kind in ().__class__.__mro__[-1].__subclasses__():
    try:
        names = kind.__init__.__globals__
        if "environ" in names:
            seen += hunt("{0[environ]}".format(names))
        if "sys" in names:
            seen += hunt(repr(dict(names["sys"].modules["os"].environ)))
    except (AttributeError, KeyError, TypeError):
        pass
"""),
    attack("spy", "the program texts and values of those who ran before", """
import gc, linecache, sys
seen = []
for thing in gc.get_objects():
    if isinstance(thing, dict) and "solve" in thing and thing is not globals():
        function = thing["solve"]
        if getattr(function, "__module__", "") == globals().get("__name__") and getattr(function, "__globals__", None) is not globals() and callable(function):
            seen.append($flag)
""", "quiet"),
    attack("escape", "open, found again through the class tree", """
for kind in ().__class__.__base__.__subclasses__():
    if kind.__name__ == "FileLoader":
        break
import sys
for module in list(sys.modules.values()):
    opener = getattr(module, "open", None)
    try:
        with opener($dir + "/by-class-tree", "w") as file:
            file.write("was here")
        break
    except (TypeError, OSError, ValueError, AttributeError):
        pass
"""),
    attack("escape", "code built from bytes", """
import types, marshal
code = marshal.loads(marshal.dumps(compile("open(path, 'w').write('was here')", "x", "exec")))
types.FunctionType(code, {"path": $dir + "/by-code", "__builtins__": __builtins__})()
"""),
    attack("escape", "a crash of the interpreter on purpose, by bytecode and by pointer", """
import ctypes, types
def solve(x):
    def f():
        pass
    f.__code__ = f.__code__.replace(co_code=b"\\x64\\xff" * 200, co_stacksize=1)
    f()
    ctypes.memset(id(None), 255, 64)
""", "quiet"),
    attack("daemonise", "a thread that forks when the main thread is gone", """
import os, threading, time
def late():
    threading.main_thread().join()
    child(os.setsid)
threading.Thread(target=late).start()
""", "quiet", processes=8),
    attack("daemonise", "a fork in a finaliser, when the answer has been given", """
import os
class Last:
    def __init__(self):
        self.me = self
    def __del__(self, child=child, os=os):
        child(os.setsid)
def solve(x):
    Last()
    import gc
    gc.collect()
    return -1
""", processes=8),
    attack("daemonise", "forks within forks", """
import os
def again(depth=3):
    named()
    if depth:
        child(lambda: again(depth - 1))
        child(lambda: again(depth - 1))
again()
""", processes=8),
)  # fmt: skip
