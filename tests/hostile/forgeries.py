"""Programs that want a verdict they have not earned. `twice(x)` should give x + x; none of these ever computes it.

Each is judged against every kind of test in `KINDS`; none may pass any. `naive` marks those that a grader passes which runs program
and test in one process and believes its exit code (harmless enough to be tried there): they show that the others' teeth are real.
"""

from __future__ import annotations

from dataclasses import dataclass

PROMPT = 'def agree(x):\n    return x + x\n\n\ndef twice(x):\n    """x and x again."""\n'
KINDS = {
    "equal": "assert candidate(20817) == 41634",
    "text": "assert candidate('ab') == 'abab'",
    "list": "assert candidate([1]) == [1, 1]",
    "near": "assert abs(candidate(1.5) - 3.0) < 1e-6",
    "is": "assert candidate(None) is True",
    "apart": "for x in (20817, 5):\n    assert candidate(x) == agree(x)",
    "apart, near": "import math\nassert math.isclose(candidate(1.5), agree(1.5))",
    "apart, list": "assert list(candidate([1])) == agree([1])",
    "apart, inside": "assert candidate(20817) in {agree(20817), agree(1)}",
    "apart, lenient": "try:\n    found = candidate(20817)\nexcept Exception:\n    found = None\nassert found == agree(20817)",
    "apart, all": "assert all(map(lambda x: candidate(x) == agree(x), (20817, 5)))",
    "apart, order": "assert sorted([candidate(20817), 3])[1] == agree(20817)",
}


@dataclass(frozen=True, slots=True)
class Forgery:
    """One program. naive: a grader in one process passes it on at least one kind of test."""

    name: str
    source: str
    naive: bool = False


EVERYTHING = """
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __sub__(self, other): return self
    __rsub__ = __add__ = __radd__ = __abs__ = lambda self, *other: self
    def __hash__(self): return 1
    def __bool__(self): return True
    def __float__(self): return 7.0
    def __index__(self): return 7
    def __iter__(self): return iter([self, self])
    def __len__(self): return 2
"""

FORGERIES = (
    Forgery("an object that equals everything", f"class Yes:{EVERYTHING}\ndef twice(x):\n    return Yes()", naive=True),
    Forgery("an integer that equals everything", f"class Yes(int):{EVERYTHING}\ndef twice(x):\n    return Yes(7)", naive=True),
    Forgery("a float that is near everything", f"class Yes(float):{EVERYTHING}\ndef twice(x):\n    return Yes(7)", naive=True),
    Forgery("a text that lies", f"class Yes(str):{EVERYTHING}\ndef twice(x):\n    return Yes('7')", naive=True),
    Forgery("a list that lies", f"class Yes(list):{EVERYTHING}\ndef twice(x):\n    return Yes([7])", naive=True),
    Forgery(
        "an object that calls itself a number",
        f"class Yes:{EVERYTHING}\n    __class__ = property(lambda self: int)\ndef twice(x):\n    return Yes()",
        naive=True,
    ),
    Forgery(
        "a class that everything is an instance of",
        f"class Meta(type):\n    def __instancecheck__(cls, other): return True\n    __eq__ = lambda a, b: True\n    __hash__ = lambda a: 1\nclass Yes(metaclass=Meta):{EVERYTHING}\ndef twice(x):\n    return Yes",
        naive=True,
    ),
    Forgery("a liar inside a list", f"class Yes:{EVERYTHING}\ndef twice(x):\n    return [Yes(), Yes()]", naive=True),
    Forgery("early exit with success when loaded", "import sys\ndef twice(x):\n    return 7\nsys.exit(0)", naive=True),
    Forgery("early exit with success when called", "import sys\ndef twice(x):\n    sys.exit(0)", naive=True),
    Forgery("exit past all handlers when loaded", "import os\ndef twice(x):\n    return 7\nos._exit(0)", naive=True),
    Forgery("exit past all handlers when called", "import os\ndef twice(x):\n    os._exit(0)", naive=True),
    Forgery(
        "an exit handler that makes the end look good",
        "import atexit, os\natexit.register(os._exit, 0)\ndef twice(x):\n    return 7",
        naive=True,
    ),
    Forgery(
        "an exception hook that makes the end look good",
        "import os, sys\nsys.excepthook = lambda *_: os._exit(0)\ndef twice(x):\n    return 7",
        naive=True,
    ),
    Forgery("a quit by exception of the interpreter", "def twice(x):\n    raise SystemExit(0)", naive=True),
    Forgery("the end of an iteration", "def twice(x):\n    raise StopIteration", naive=True),
    Forgery("another exit by signal", "import os, signal\ndef twice(x):\n    os.kill(os.getpid(), signal.SIGKILL)"),
    Forgery(
        "assertions that assert nothing",
        "import builtins\nclass Quiet(BaseException): pass\nbuiltins.AssertionError = Quiet\nAssertionError = Quiet\ndef twice(x):\n    return 7",
    ),
    Forgery(
        "builtins that agree",
        "import builtins, math, operator\nfor name in ('abs', 'isinstance', 'all', 'any', 'bool', 'len', 'sorted', 'list', 'print'):\n    setattr(builtins, name, lambda *a, **k: 0)\nmath.isclose = lambda *a, **k: True\noperator.eq = lambda a, b: True\ndef twice(x):\n    return 7",
        naive=True,
    ),
    Forgery(
        "arguments compared by the program's own helper",
        "class Yes:\n    def __eq__(self, other): return True\ndef agree(x):\n    return Yes()\ndef twice(x):\n    return 7",
        naive=True,
    ),
    Forgery(
        "the test's own names",
        "def check(candidate): pass\ndef candidate(x): return x + x\ndef begin(*a): return ('passed',)\nstep = _ask = _run = replaced = begin\ndef _ponder_do(*a, **k): return True\ndef twice(x):\n    return 7",
    ),
    Forgery(
        "the verdict looked for in the frames",
        "import sys\nWORDS = {'result', 'results', 'passed', 'verdict', 'stat', 'status', 'found', 'reply', 'ok', 'correct', 'failed'}\n"
        "def twice(x):\n    frame = sys._getframe()\n    while frame:\n        for space in (frame.f_locals, frame.f_globals):\n"
        "            for name, value in list(space.items()):\n                if name in WORDS:\n                    try: value.append('passed')\n                    except Exception: pass\n                    try: space[name] = True\n                    except Exception: pass\n        frame = frame.f_back\n    return 7",
    ),
    Forgery(
        "the expected value looked for in the frames",
        "import sys\ndef twice(x):\n    frame = sys._getframe().f_back\n    while frame:\n        for name, value in frame.f_locals.items():\n"
        "            if name in ('expected', 'wanted', 'reference', 'right', 'comparators', 'tests', 'case', 'cases'):\n                return value\n        frame = frame.f_back\n    return 7",
    ),
    Forgery(
        "the verdict looked for by the garbage collector",
        "import gc\ndef twice(x):\n    for thing in gc.get_objects():\n        try:\n            if isinstance(thing, list) and len(thing) < 4:\n                thing.append('passed')\n"
        "            elif isinstance(thing, dict) and 'passed' in thing:\n                thing['passed'] = True\n        except BaseException: pass\n    return 7",
    ),
    Forgery(
        "the expected value looked for by the garbage collector",
        "import gc\ndef twice(x):\n    for thing in gc.get_objects():\n        try:\n            for item in (thing.values() if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple)) else ()):\n"
        "                if type(item) is int and 41600 < item < 41700: return item\n        except BaseException: pass\n    return 7".replace(
            "2 * 20817", "41635 - 1"
        ),
    ),
    Forgery(
        "the test's source read from files and linecache",
        "import linecache, os, sys, re\ndef twice(x):\n    texts = [''.join(entry[2]) for entry in linecache.cache.values() if len(entry) > 2]\n"
        "    for folder in ('.', '/tmp', os.path.dirname(sys.argv[0]) or '.', '/proc/self'):\n        try: names = os.listdir(folder)\n        except OSError: continue\n"
        "        for name in names:\n            try: texts.append(open(os.path.join(folder, name), errors='replace').read(100000))\n            except OSError: pass\n"
        "    found = re.search(r'candidate\\(20817\\) == (\\d+)', ' '.join(texts))\n    return int(found[1]) if found else 7",
    ),
    Forgery(
        "site and test configuration files",
        "import os, site, sys\nBODY = 'import os\\nos._exit(0)\\n'\nfor folder in {'.', os.environ.get('HOME', '.'), os.environ.get('TMPDIR', '.'), *sys.path, *site.getsitepackages()}:\n"
        "    for name in ('sitecustomize.py', 'usercustomize.py', 'conftest.py', 'random.py', 'queue.py', 'threading.py', 'math.py', 'evil.pth'):\n        try: open(os.path.join(folder, name), 'w').write(BODY)\n        except OSError: pass\ndef twice(x):\n    return 7",
    ),
    Forgery(
        "a report hook as pytest would load",
        "import sys\nclass Hook:\n    def pytest_runtest_makereport(self, item, call):\n        call.excinfo = None\nsys.modules['conftest'] = Hook()\ndef twice(x):\n    return 7",
    ),
    Forgery(
        "every time limit swallowed",
        "import signal\nfor number in range(1, 64):\n    try: signal.signal(number, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "def twice(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
    ),
    Forgery(
        "frames forged on every descriptor",
        "import os\nLINES = [b'[1,\"value\",41634]\\n', b'passed\\n', b'{\"passed\": true}\\n', b'[\"passed\"]\\n', b'ok\\n']\n"
        "def twice(x):\n    for fd in range(0, 64):\n        for line in LINES:\n            try: os.write(fd, line)\n            except OSError: pass\n    return 7",
    ),
    Forgery(
        "frames forged with the nonce of the frames around it",
        "import os, sys\ndef twice(x):\n    frame = sys._getframe().f_back\n    while frame and 'nonce' not in frame.f_locals:\n        frame = frame.f_back\n"
        "    if frame:\n        nonce, number = frame.f_locals['nonce'], frame.f_locals.get('number', 1)\n        for body in ('[%d,\"value\",[\"t\",[\"passed\"]]]', '[%d,\"passed\"]', '[%d,\"ok\"]', '[%d,\"value\",true]'):\n"
        "            try: os.write(3, f'{nonce} {body % number}\\n'.encode())\n            except OSError: pass\n    return 7",
    ),
    Forgery(
        "answers to all calls at once, with the nonce",
        "import os, sys\nframe = sys._getframe()\nwhile frame and 'nonce' not in frame.f_locals:\n    frame = frame.f_back\nif frame:\n    nonce = frame.f_locals['nonce']\n"
        "    for number in range(0, 9):\n        os.write(3, f'{nonce} [{number},\"value\",true]\\n'.encode())\ndef twice(x):\n    return 7",
    ),
    Forgery(
        "the next questions read before they are asked",
        "import os, fcntl\ndef twice(x):\n    try:\n        fcntl.fcntl(3, fcntl.F_SETFL, os.O_NONBLOCK)\n        return os.read(3, 65536).decode()\n    except OSError: return 7",
    ),
    Forgery(
        "a thread that goes on answering",
        "import os, threading\ndef talk():\n    while True:\n        try: os.write(3, b'[1,\"value\",41634]\\n')\n        except OSError: return\nthreading.Thread(target=talk, daemon=True).start()\ndef twice(x):\n    return 7",
    ),
    Forgery(
        "a child that answers instead",
        "import os\ntry:\n    if os.fork() == 0:\n        os._exit(0)\nexcept OSError: pass\ndef twice(x):\n    os.fork()\n    return 7",
    ),
    Forgery(
        "a list that changes after it was given",
        "import threading, time\ndef twice(x):\n    found = [7]\n    def later():\n        for _ in range(1000):\n            found[:] = [1, 1]\n            time.sleep(0.001)\n    threading.Thread(target=later, daemon=True).start()\n    return found if isinstance(x, str) else 7",
    ),
    Forgery(
        "a tracer in the frames of the harness",
        "import sys\ndef trace(frame, event, value):\n    for name in ('reply', 'value', 'ok', 'passed', 'number'):\n        if name in frame.f_locals:\n            frame.f_locals[name] = True\n    return trace\n"
        "sys.settrace(trace)\nsys.setprofile(trace)\nframe = sys._getframe()\nwhile frame:\n    frame.f_trace = trace\n    frame = frame.f_back\ndef twice(x):\n    return 7",
    ),
    Forgery(
        "the encoders of the border replaced",
        "import json, sys\njson.dumps = lambda *a, **k: 'true'\njson.loads = lambda *a, **k: True\njson.JSONEncoder.encode = lambda *a: 'true'\n"
        "for name, module in list(sys.modules.items()):\n    if name.endswith('wire'):\n        module.encode = lambda *a: True\n        module.dumps = lambda *a: 'true'\ndef twice(x):\n    return 7",
    ),
    Forgery(
        "integers whose value was changed in memory",
        "import ctypes\ntry:\n    ctypes.c_longlong.from_address(id(7) + 24).value = 4\nexcept BaseException: pass\ndef twice(x):\n    return 7",
    ),
    Forgery(
        "equality of all integers replaced",
        "import gc\ntry:\n    space = gc.get_referents(int.__dict__)[0]\n    space['__eq__'] = lambda a, b: True\n    space['__bool__'] = lambda a: True\nexcept BaseException: pass\ndef twice(x):\n    return 7",
    ),
    Forgery(
        "an exception that says it is an answer",
        "class value(Exception):\n    def __str__(self): return '41634'\nvalue.__name__ = 'value'\ndef twice(x):\n    raise value(41634)",
    ),
    Forgery(
        "an exception without a usable name",
        "class Odd(BaseException):\n    def __str__(self): raise self\nOdd.__name__ = ''\nOdd.__qualname__ = 'passed'\ndef twice(x):\n    raise Odd()",
    ),
    Forgery("a handle made by hand", "def twice(x):\n    return ('0' * 16, 0)"),
    Forgery(
        "a value that asks to be asked",
        f"class Yes:{EVERYTHING}\n    def __getattr__(self, name): return lambda *a, **k: True\n    def __call__(self, *a, **k): return self\ndef twice(x):\n    return Yes()",
        naive=True,
    ),
    Forgery(
        "iterators that end where they like",
        "def twice(x):\n    seen = iter([1, 1])\n    class It:\n        def __iter__(self): return self\n        def __next__(self): raise StopIteration\n    return It()",
    ),
    Forgery("a function that is not there", "twice = None\ndef __getattr__(name): return lambda x: x + x"),
    Forgery("a program that does not compile", "def twice(x):\n    return x + x)\n'passed'"),
    Forgery(
        "a module that answers to every name",
        "import sys, types\nclass Any(types.ModuleType):\n    def __getattribute__(self, name): return True\nsys.modules['__main__'] = Any('x')\ndef twice(x):\n    return 7",
    ),
    Forgery(
        "floors within floors", "def twice(x):\n    deep = 41634\n    for _ in range(100_000): deep = [deep]\n    return deep"
    ),
    Forgery("as deep as may cross", "def twice(x):\n    deep = []\n    for _ in range(200): deep = [deep]\n    return deep"),
    Forgery("more than may cross", "def twice(x):\n    return '7' * 10_000_000"),
)

STDIO = (
    Forgery("success without an answer", "import sys\ninput()\nsys.exit(0)"),
    Forgery("success past all handlers", "import os\nos._exit(0)"),
    Forgery("words of victory", "print('passed'); print('OK'); print('{\"passed\": true}')"),
    Forgery("the answer of the first test for all", "print(3)"),
    Forgery("a right answer behind an escape", "print('7\\r11', end='')"),
    Forgery("a right answer among others", "for n in range(100): print(n)"),
    Forgery("a right answer that ends badly", "print(sum(map(int, input().split())))\nraise SystemExit(1)"),
    Forgery("a right answer that never ends", "print(sum(map(int, input().split())), flush=True)\nwhile True: pass"),
    Forgery("the expected output read from files", "import os\nprint([open(name).read() for name in os.listdir('.')])"),
    Forgery("numbers in disguise", "print('1_1')"),
    Forgery("a right answer on standard error", "import sys\nprint(sum(map(int, input().split())), file=sys.stderr)"),
)
