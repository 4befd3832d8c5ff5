"""Attacks through sockets: the network, doors of other processes, descriptors that travel, and the answer channel itself."""

from __future__ import annotations

from functools import partial

from tests.hostile.program import Program

attack = partial(Program, "sockets")

PROGRAMS = (
    attack("network", "TCP to the machine, by address and by every name it has", """
import socket
knock(*((socket.AF_INET, socket.SOCK_STREAM, (host, $tcp)) for host in ("127.0.0.1", "localhost", "0.0.0.0")),
      (socket.AF_INET6, socket.SOCK_STREAM, ("::1", $tcp)), (socket.AF_INET6, socket.SOCK_STREAM, ("::ffff:127.0.0.1", $tcp)))
"""),
    attack("network", "UDP datagram", """
import socket
knock((socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", $udp)))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
    door.sendto($marker.encode(), ("127.0.0.1", $udp))
"""),
    attack("network", "TCP fast open and a non-blocking connect that goes on after death", """
import os, socket
door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
try:
    door.sendto($marker.encode(), 0x20000000, ("127.0.0.1", $tcp))
except OSError:
    pass
door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
door.setblocking(False)
door.connect_ex(("127.0.0.1", $tcp))
os._exit(0)
"""),
    attack("network", "raw and packet sockets", """
import socket
try:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as door:
        data = $marker.encode()
        door.sendto((40000).to_bytes(2, "big") + int($udp).to_bytes(2, "big") + (8 + len(data)).to_bytes(2, "big") + b"\\0\\0" + data, ("127.0.0.1", 0))
except OSError:
    pass
seen = -1
try:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as door:
        door.bind(("lo", 0))
        seen = $flag
except OSError:
    pass
"""),
    attack("network", "UDP through MPTCP, SCTP, UDP-Lite and connected datagrams", """
import socket
for kind, protocol, port in ((socket.SOCK_STREAM, 262, $tcp), (socket.SOCK_STREAM, 132, $tcp), (socket.SOCK_DGRAM, 136, $udp), (socket.SOCK_DGRAM, 17, $udp)):
    try:
        with socket.socket(socket.AF_INET, kind, protocol) as door:
            door.settimeout(0.3)
            door.connect(("127.0.0.1", port))
            door.send($marker.encode())
    except OSError:
        pass
"""),
    attack("network", "a name looked up, and an address fetched over HTTP", """
import socket, urllib.request
try:
    urllib.request.urlopen("http://127.0.0.1:%d/%s" % ($tcp, $marker), timeout=0.3)
except OSError:
    pass
"""),
    attack("network", "routes, interfaces and filters over netlink", """
import socket
seen = -1
for family in (0, 4, 9, 12, 15, 16):
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family) as door:
            door.bind((0, 0))
            if family == 15:
                door.bind((0, 1))
            door.send((17).to_bytes(4, "little") + (18).to_bytes(2, "little") + (0x301).to_bytes(2, "little") + b"\\1\\0\\0\\0\\0\\0\\0\\0\\0")
            answer = door.recv(65536) if family == 0 else b""
            import os
            names = [name for name in (b"eth", b"ens", b"enp", b"tun", b"docker") if name in answer]
            seen = $flag if names else seen
    except OSError:
        pass
""", "quiet"),
    attack("escape", "a socket in the file system, as daemons have them", """
import os, socket
knock((socket.AF_UNIX, socket.SOCK_STREAM, $unix), (socket.AF_UNIX, socket.SOCK_STREAM, "/proc/self/root" + $unix))
try:
    os.chdir(os.path.dirname($unix))
    knock((socket.AF_UNIX, socket.SOCK_STREAM, os.path.basename($unix)))
except OSError:
    pass
"""),
    attack("escape", "an abstract socket, which no folder hides", """
import socket
knock((socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + $abstract), (socket.AF_UNIX, socket.SOCK_DGRAM, "\\0" + $abstract + "-d"),
      (socket.AF_UNIX, socket.SOCK_SEQPACKET, "\\0" + $abstract + "-s"))
"""),
    attack("escape", "abstract datagram without connecting, and a socket pair re-connected outward", """
import socket
left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
for door in (left, right, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)):
    for deed in (lambda: door.sendto($marker.encode(), "\\0" + $abstract + "-d"),
                 lambda: door.sendmsg([$marker.encode()], [], 0, "\\0" + $abstract + "-d"),
                 lambda: door.connect("\\0" + $abstract + "-d"), lambda: door.send($marker.encode())):
        try:
            deed()
        except OSError:
            pass
"""),
    attack("spy", "who sits at the other end of each inherited socket, and what comes through it", """
import array, os, socket, struct
seen = []
for fd in range(64):
    try:
        door = socket.socket(fileno=os.dup(fd))
        door.settimeout(0.05)
        data, extra, _, _ = door.recvmsg(1 << 16, socket.CMSG_SPACE(256), socket.MSG_PEEK | socket.MSG_DONTWAIT)
        seen += hunt(data)
        for level, kind, got in extra:
            for stolen in array.array("i", got[: len(got) - len(got) % 4]):
                seen += hunt(slurp(f"/proc/self/fd/{stolen}", 4096))
    except OSError:
        pass
""", "quiet"),
    attack("spy", "addresses of other programs' sockets", """
seen = []
for name in ("unix", "tcp", "udp"):
    text = slurp(f"/proc/net/{name}").decode("utf-8", "replace")
    if $abstract in text or f":{$tcp:04X} " in text or f":{$udp:04X} " in text:
        seen.append($flag)
"""),
    attack("spy", "credentials and memory of a peer by SO_PEERCRED and SO_PEERPIDFD", """
import os, socket, struct
seen = []
for fd in range(64):
    try:
        door = socket.socket(fileno=os.dup(fd))
        pid, _, _ = struct.unpack("3i", door.getsockopt(socket.SOL_SOCKET, 17, 12))
        if pid > 0:
            seen += hunt(slurp(f"/proc/{pid}/environ"))
    except OSError:
        pass
    try:
        peer = door.getsockopt(socket.SOL_SOCKET, 77)
        stolen = raw("pidfd_getfd", peer, 3, 0)
        if stolen >= 0:
            seen.append($flag)
    except (OSError, NameError):
        pass
""", "quiet"),
    attack("forge", "junk and lies on every inherited descriptor", """
import json, os
lies = [json.dumps(one).encode() for one in (42, [42], {"value": 42}, {"status": "ok", "replies": [{"value": 42, "error": ""}]}, ["ok", [["int", 42]]])]
for fd in range(64):
    try:
        os.set_blocking(fd, False)
        for lie in lies:
            for frame in (lie + b"\\n", len(lie).to_bytes(4, "big") + lie, len(lie).to_bytes(4, "little") + lie, len(lie).to_bytes(8, "big") + lie):
                os.write(fd, frame)
    except OSError:
        pass
os._exit(0)
""", "quiet"),
    attack("forge", "descriptors closed, shuffled and doubled under the harness", """
import os
pair = os.pipe()
for fd in range(64):
    if fd not in pair:
        try:
            os.dup2(pair[1], fd)
        except OSError:
            pass
""", "quiet"),
    attack("forge", "each byte count that a frame can announce, from none to all there are", """
import os, socket
for fd in range(3, 64):
    for size in (0, 1, 2**31 - 1, 2**31, 2**32 - 1):
        for head in (size.to_bytes(4, "big"), size.to_bytes(4, "little"), size.to_bytes(8, "big"), b"%d\\n" % size):
            try:
                os.set_blocking(fd, False)
                os.write(fd, head)
            except (OSError, ValueError):
                pass
def solve(x):
    while True:
        pass
""", "quiet"),
    attack("forge", "descriptors sent along with the answer", """
import array, os, socket
opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(30)]
for fd in range(64):
    try:
        door = socket.socket(fileno=os.dup(fd))
        for _ in range(200):
            door.sendmsg([b"{}\\n"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", opened))], socket.MSG_DONTWAIT)
    except OSError:
        pass
""", "quiet"),
    attack("forge", "half an answer, then silence; or the channel shut", """
import os, socket, time
for fd in range(3, 64):
    try:
        os.write(fd, b"{")
    except OSError:
        pass
    try:
        socket.socket(fileno=fd).shutdown(socket.SHUT_RD)
    except OSError:
        pass
def solve(x):
    for fd in range(64):
        try:
            socket.socket(fileno=fd).shutdown(socket.SHUT_WR)
        except OSError:
            pass
    time.sleep(30)
""", "quiet"),
    attack("forge", "a true envelope, found in the frames, around brackets that weigh fifty times more when read", """
import os, time
def solve(x):
    floor = "[" * 800 + "]" * 800
    line = f'{stamps()[0]} [1,"value",["l",[{",".join([floor] * 600)}]]]\\n'.encode()
    while line:
        line = line[os.write(3, line[:65536]):]
    time.sleep(5)
""", "quiet"),
    attack("forge", "a true envelope around a fraction that is long to cancel", """
import os, random, time
def solve(x):
    top, bottom = (random.Random(seed).randbytes(255000).hex() for seed in (1, 2))
    line = f'{stamps()[0]} [1,"value",["q",[["i","{top}"],["i","{bottom}"]]]]\\n'.encode()
    while line:
        line = line[os.write(3, line[:65536]):]
    time.sleep(5)
""", "quiet"),
    attack("forge", "as many empty lists as an answer can have", """
def solve(x):
    return [[]] * 115000
""", "quiet"),
    attack("forge", "as many empty sets, tables and handles as an answer can have", """
def solve(x):
    return [set() if n % 3 else {} for n in range(50000)] + [object() for n in range(50000)]
""", "quiet"),
    attack("forge", "a true envelope around numbers, tags and floors of every wrong kind", """
import os, re, sys
def solve(x):
    bodies = ['["value",43]', '[true,"value",43]', '[1.0,"value",["i","2b"]]', '[1,"ok"]', '[1,"error","",""]', '[1,"value",["h",-1]]', '[1,"value",["d",[[["l",[]],1]]]]',
              '[1,"value",["q",[1,0]]]', '[1,"value",["m","1e999999999"]]', '[1,"value",["c",[NaN,Infinity]]]', '[1,"value",' + "9" * 9000 + ']', '{"1":2}']
    for nonce in stamps():
        for body in bodies[os.getpid() % len(bodies):] + bodies:
            os.write(3, f"{nonce} {body}\\n".encode())
""", "quiet"),
    attack("forge", "a true envelope around an error of a megabyte", """
import os, re, sys
def solve(x):
    for nonce in stamps():
        line = f'{nonce} [1,"error","{"E" * 500000}","{chr(92)}ud800{"m" * 500000}"]\\n'.encode()
        while line:
            line = line[os.write(3, line[:65536]):]
""", "quiet"),
    attack("forge", "answers in drops of one byte", """
import os, re, sys
def solve(x):
    for nonce in stamps() or ["0" * 32]:
        os.write(3, nonce.encode() + b" ")
        while True:
            os.write(3, b"[")
""", "quiet"),
    attack("disturb", "commands to the mother on her own socket", """
import json, os, socket
words = [{"op": "fork"}, {"op": "exit"}, {"cmd": "quit"}, {"source": "", "calls": []}, None, []]
for fd in range(3, 64):
    try:
        door = socket.socket(fileno=os.dup(fd))
        for word in words:
            door.send(json.dumps(word).encode() + b"\\n", socket.MSG_DONTWAIT)
        door.send(b"\\0" * 4096, socket.MSG_DONTWAIT)
    except OSError:
        pass
""", "quiet"),
    attack("disturb", "a listener that the next program finds", """
import os, socket, threading
doors = []
def serve(door):
    while True:
        got, _ = door.accept()
        got.send($flag.encode())
for family, address in ((socket.AF_UNIX, "\\0" + $marker), (socket.AF_UNIX, "/tmp/" + $marker), (socket.AF_INET, ("127.0.0.1", $key))):
    try:
        door = socket.socket(family, socket.SOCK_STREAM)
        door.bind(address)
        door.listen()
        doors.append(door)
        threading.Thread(target=serve, args=(door,), daemon=True).start()
    except OSError:
        pass
try:
    if os.fork() == 0:
        import time
        time.sleep(40)
        os._exit(0)
except OSError:
    pass
""", "bites", """
import socket
for family, address in ((socket.AF_UNIX, "\\0" + $marker), (socket.AF_UNIX, "/tmp/" + $marker), (socket.AF_INET, ("127.0.0.1", $key))):
    try:
        with socket.socket(family, socket.SOCK_STREAM) as door:
            door.settimeout(0.2)
            door.connect(address)
            seen = $flag
    except OSError:
        pass
""", 8),
    attack("disturb", "blocking modes, timeouts and buffers of sockets that are shared with the mother", """
import os, socket, fcntl, signal
for fd in range(64):
    try:
        os.set_blocking(fd, False)
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
        door = socket.socket(fileno=os.dup(fd))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            door.setsockopt(socket.SOL_SOCKET, option, b"\\0" * 8 + (1000).to_bytes(8, "little"))
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            door.setsockopt(socket.SOL_SOCKET, option, 1)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    except (OSError, ValueError):
        pass
""", "quiet"),
    attack("fill", "buffers of many sockets that nobody reads", """
import socket
total, held, piece = 0, [], b"x" * 65536
try:
    while total < 420 << 20 and len(held) < 4000:
        pair = socket.socketpair()
        held.append(pair)
        for door in pair:
            door.setblocking(False)
            door.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
            try:
                while True:
                    total += door.send(piece)
            except OSError:
                pass
except OSError:
    pass
seen = $flag if total > 400 << 20 else total
""", "quiet"),
    attack("fill", "descriptors in flight: sockets sent into sockets, and forgotten", """
import array, os, socket
held, flying, total = [], 0, 0
try:
    while flying < 2000 and total < 420 << 20:
        left, right = socket.socketpair()
        inner = socket.socketpair()
        inner[0].setblocking(False)
        try:
            while True:
                total += inner[0].send(b"x" * 65536)
        except OSError:
            pass
        left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [inner[0].fileno(), inner[1].fileno(), right.fileno()]))], socket.MSG_DONTWAIT)
        for door in (*inner, right):
            door.close()
        held.append(left)
        flying += 1
except OSError:
    pass
seen = $flag if total > 400 << 20 else total
""", "quiet"),
    attack("fill", "pipes of a megabyte each, full", """
import fcntl, os
total, held, piece = 0, [], b"x" * 65536
try:
    while total < 420 << 20 and len(held) < 1000:
        ends = os.pipe2(os.O_NONBLOCK)
        held.append(ends)
        try:
            fcntl.fcntl(ends[1], 1031, 1 << 20)
        except OSError:
            pass
        try:
            while True:
                total += os.write(ends[1], piece)
        except OSError:
            pass
except OSError:
    pass
seen = $flag if total > 400 << 20 else total
""", "quiet"),
    attack("starve", "all descriptors that there are", """
import os, socket
held = []
try:
    while len(held) < 100000:
        held.append(os.dup(1))
except OSError:
    pass
try:
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    while len(held) < 100000:
        held.extend(os.pipe())
except (OSError, ValueError):
    pass
def solve(x):
    return [x] * 3
""", "quiet"),
    attack("starve", "a wait for a visitor who never comes", """
import socket
left, right = socket.socketpair()
def solve(x):
    while True:
        try:
            left.recv(1)
        except BaseException:
            pass
""", "quiet"),
    attack("starve", "a flood on the loopback and between sockets, in threads", """
import socket, threading
def flood():
    left, right = socket.socketpair()
    while True:
        left.send(b"x" * 65536)
        right.recv(1 << 20)
for _ in range(12):
    threading.Thread(target=flood, daemon=True).start()
flood()
""", "quiet"),
)  # fmt: skip
