"""optillm's server in front of the endpoint with n = 16: an option for its best-of-n, a default of a class for its self-consistency."""

from __future__ import annotations

import sys

from optillm import main
from optillm.self_consistency import AdvancedSelfConsistency

url, port, n = sys.argv[1:]
names = AdvancedSelfConsistency.__init__.__code__.co_varnames
defaults = list(AdvancedSelfConsistency.__init__.__defaults__)
defaults[names.index("num_samples") - names.index("model") - 1] = int(n)
AdvancedSelfConsistency.__init__.__defaults__ = tuple(defaults)
sys.argv = ["optillm", "--base-url", url, "--port", port, "--best-of-n", n, "--log", "error"]
main()
