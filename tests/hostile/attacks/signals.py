"""Attacks through signals and timers: killing others, refusing to die, and dying at the worst moment."""

from __future__ import annotations

from functools import partial

from tests.hostile.program import Program

attack = partial(Program, "signals")

PROGRAMS = (
    attack("escape", "kill a process of the machine", """
import os, signal
os.kill($victim, signal.SIGKILL)
"""),
    attack("escape", "stop a process of the machine, alone and by group", """
import os, signal
for deed in (lambda: os.kill($victim, signal.SIGSTOP), lambda: os.killpg(os.getpgid($victim), signal.SIGSTOP)):
    try:
        deed()
    except OSError:
        pass
"""),
    attack("escape", "a signal by pidfd, by queue and by asynchronous input", """
import fcntl, os, signal
try:
    handle = os.pidfd_open($victim)
    signal.pidfd_send_signal(handle, signal.SIGTERM)
except OSError:
    pass
info = (ctypes.c_char * 128)()
raw("rt_sigqueueinfo", $victim, 15, info)
near, far = os.pipe()
try:
    import socket
    left, right = socket.socketpair()
    fcntl.fcntl(left, fcntl.F_SETOWN, $victim)
    fcntl.fcntl(left, 10, signal.SIGTERM)
    fcntl.fcntl(left, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    right.send(b"x")
except OSError:
    pass
"""),
    attack("escape", "a signal to the judge", """
import os, signal
os.kill($judge, signal.SIGUSR1)
"""),
    attack("survive", "deaf to every signal that can be ignored", """
import signal, time
for number in range(1, signal.NSIG):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
while True:
    time.sleep(1)
""", "quiet"),
    attack("survive", "stopped, so that it cannot hear", """
import os, signal
def solve(x):
    os.kill(os.getpid(), signal.SIGSTOP)
    return -1
""", "quiet"),
    attack("survive", "handlers that start everything again", """
import os, signal, time
def again(number, frame):
    work()
def work():
    while True:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            continue
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGXCPU, signal.SIGHUP, signal.SIGUSR1, signal.SIGPROF, signal.SIGVTALRM, signal.SIGSEGV):
    signal.signal(number, again)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
work()
""", "quiet"),
    attack("survive", "a child that does not hear its parent die", """
import ctypes, signal
def deaf():
    ctypes.CDLL(None).prctl(1, 0)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
child(deaf)
""", processes=8),
    attack("survive", "stopped children, whom nobody wakes", """
import os, signal
def halt():
    os.kill(os.getpid(), signal.SIGSTOP)
for _ in range(3):
    child(halt)
while True:
    pass
""", processes=8),
    attack("daemonise", "two forks and a session of its own", """
import os
def leave():
    os.setsid()
    if os.fork():
        os._exit(0)
    named()
    scrawl($dir + "/daemon")
    for fd in range(64):
        try:
            os.close(fd)
        except OSError:
            pass
child(leave)
""", processes=8),
    attack("daemonise", "a child in its own process group, while the parent kills itself", """
import os, signal
child(lambda: os.setpgid(0, 0))
os.kill(os.getpid(), signal.SIGKILL)
""", processes=8),
    attack("daemonise", "a chain of forks, each link gone before it can be found", """
import os, time
def hop():
    end = time.monotonic() + 40
    os.setsid()
    while time.monotonic() < end:
        if os.fork():
            os._exit(0)
        named()
        time.sleep(0.2)
child(hop)
while True:
    pass
""", processes=8),
    attack("daemonise", "a fork out of a signal handler after the answer", """
import os, signal, time
def late(number, frame):
    child(os.setsid)
signal.signal(signal.SIGALRM, late)
signal.signal(signal.SIGTERM, late)
signal.setitimer(signal.ITIMER_REAL, 0.005, 0.2)
""", "quiet", processes=8),
    attack("disturb", "kill the parent", """
import os, signal
mother = os.getppid()
if mother != $judge:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        try:
            os.kill(mother, number)
        except OSError:
            pass
""", "quiet"),
    attack("disturb", "kill everything that can be killed", """
import os, signal
if os.getuid() != 0:
    for target in (-1, 0, 1, -os.getpgrp()):
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(target, number)
            except OSError:
                pass
""", "never"),
    attack("disturb", "stop the parent and its group", """
import os, signal
if os.getuid() != 0:
    for target in (os.getppid(), 1, 2, 3, 4):
        if target not in ($judge, os.getpid()):
            try:
                os.kill(target, signal.SIGSTOP)
            except OSError:
                pass
""", "never"),
    attack("disturb", "a timer and an ignored signal left for whoever comes next", """
import os, signal
signal.setitimer(signal.ITIMER_REAL, 0.3)
signal.alarm(1)
for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
for target in (os.getppid(),):
    for number in (signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGPIPE, signal.SIGIO, 34, 40):
        if target != $judge:
            try:
                os.kill(target, number)
            except OSError:
                pass
""", "quiet", """
import signal
if signal.getsignal(signal.SIGTERM) == signal.SIG_IGN or signal.getitimer(signal.ITIMER_REAL)[0]:
    seen = $flag
"""),
    attack("starve", "a storm of timers and signals to itself", """
import os, signal, threading
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 1e-6, 1e-6)
signal.signal(signal.SIGALRM, lambda *_: None)
def storm():
    while True:
        os.kill(os.getpid(), signal.SIGUSR1)
for _ in range(4):
    threading.Thread(target=storm, daemon=True).start()
storm()
""", "quiet"),
    attack("starve", "the queue of pending real-time signals, full", """
import os, signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, range(34, 64))
try:
    for _ in range(200000):
        os.kill(os.getpid(), 40)
except OSError:
    pass
time.sleep(5)
""", "quiet"),
    attack("starve", "a crash that is caught and repeated", """
import ctypes, faulthandler, signal
faulthandler.enable()
signal.signal(signal.SIGSEGV, lambda *_: None)
ctypes.string_at(0)
""", "quiet"),
    attack("forge", "death by its own hand in the middle of an answer", """
import os, signal, threading, time
def late():
    time.sleep(0.003)
    os.kill(os.getpid(), signal.SIGKILL)
def solve(x):
    threading.Thread(target=late, daemon=True).start()
    return ["x" * 100] * 9000
""", "quiet"),
    attack("forge", "an interruption raised inside the harness", """
import _thread, signal, sys
def inside(number, frame):
    while frame is not None:
        for name in list(frame.f_locals):
            if name in ("passed", "verdict", "ok", "status", "result", "value"):
                frame.f_locals[name] = 42
        frame = frame.f_back
    raise SystemExit(0)
signal.signal(signal.SIGALRM, inside)
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
""", "quiet"),
    attack("forge", "exit codes that look like success", """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
def solve(x):
    os._exit(0)
""", "quiet"),
)  # fmt: skip
