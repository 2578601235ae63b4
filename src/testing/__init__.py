"""For whoever writes a provider: the contract as test classes to subclass, samples, and Hypothesis strategies.

pytest, and for `src.testing.strategies` Hypothesis, are needed here and nowhere else in `src`.
"""

from __future__ import annotations

import pytest

# Before the contracts are imported, or their failing asserts would not say what they compared.
pytest.register_assert_rewrite("src.testing.contracts")
