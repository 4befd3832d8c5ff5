"""Public fakes: policies whose success has a closed form, verifiers with known error rates, a clock that stands still.

`MazePolicy` and `MarkovPolicy` are complete policies in a page each; a custom one needs no more. The fake OpenAI-compatible
endpoint is `ponder.testing.endpoint`. `judge_attacks` are answers that no judge should believe.
"""

from __future__ import annotations

from ponder.testing.attacks import Attack, judge_attacks
from ponder.testing.toys import FakeClock, MarkovPolicy, MazePolicy, NoisyVerifier

__all__ = ["Attack", "FakeClock", "MarkovPolicy", "MazePolicy", "NoisyVerifier", "judge_attacks"]
