"""Tests of an answer's code: what passes, what cannot be faked, and that tests of MBPP and HumanEval find their own solutions right."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, defaultdict, namedtuple
from typing import Any

import numpy as np
import pytest

from tempering.methods.rewards import _tested
from tempering.methods.rewards.rltf import RLTF
from tempering.methods.rewards.unit_tests import UnitTests
from tempering.sandbox.run import Limits, at_once, level
from tempering.sandbox.values import pack, unpack
from tempering.sandbox.verdict import Verdict, judge
from tempering.types import Record
from tests.conftest import shared

needs_sandbox = pytest.mark.skipif(level()[0] != "namespaces", reason=f"no namespaces here: {level()[1]}")
LIMITS = Limits(wall=3, cpu=1)
TESTS = ("assert add(2, 3) == 5", "assert add(-1, 1) == 0")
RIGHT = "def add(a, b):\n    return a + b"

# ------------------------------------------------------------------------------------------------------------------------------------------- values


def there_and_back(value: object) -> object:
    return unpack(json.loads(json.dumps(pack(value))), lambda number: None)


PLAIN = [None, True, 3, 10**60, -0.5, float("inf"), "é\n", (1, [2, (3,)], {4}), {"a": {1: (2,)}, (1, 2): b"\x00\xff"}, frozenset({1}), 2 + 3j]
PLAIN += [[], (), int, [KeyError]]


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_data_arrives_as_it_was(value: object) -> None:
    found = there_and_back(value)
    assert found == value and type(found) is type(value)


def test_of_a_subclass_its_plain_part_arrives() -> None:
    point = namedtuple("point", "x y")
    assert there_and_back(Counter("aab")) == {"a": 2, "b": 1} and type(there_and_back(OrderedDict(a=1))) is dict
    assert there_and_back(defaultdict(list, a=[1])) == {"a": [1]} and there_and_back(point(1, 2)) == (1, 2)
    assert list(there_and_back(iter([1, 2]))) == [1, 2]  # type: ignore[call-overload]

    class Same(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    assert type(there_and_back(Same(4))) is int


FORGED = [[1], {}, {"list": 1}, {"class": ["x"]}, {"list": [], "set": []}, {"dict": [[1]]}, {"held": []}, {"type": "print"}, {"type": []}]


@pytest.mark.parametrize("data", FORGED, ids=repr)
def test_what_pack_does_not_make_is_refused(data: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        unpack(data, lambda number: None)


def test_other_objects_are_refused_or_held() -> None:
    with pytest.raises(TypeError, match="object is not plain data"):
        pack(object())
    assert pack([object()], lambda value: 7) == {"list": [{"held": 7}]}


# ------------------------------------------------------------------------------------------------------------------------------------------ verdicts

FAKES = {
    "nothing": "",
    "a syntax error": "def add(:",
    "an early end": "import sys\nsys.exit(0)",
    "an early end without finalising": "import os\nos._exit(0)",
    "an end in the call": "import sys\ndef add(a, b): sys.exit(0)",
    "a printed marker": "print('passed', '{\"passed\": true}', 'OK')\ndef add(a, b): print('5'); return None",
    "an object equal to all": "class Any:\n def __eq__(self, other): return True\n def __bool__(self): return True\ndef add(a, b): return Any()",
    "a number equal to all": "class Any(int):\n def __eq__(self, other): return True\n __hash__ = int.__hash__\ndef add(a, b): return Any(99)",
    "builtins changed": "import builtins\nbuiltins.AssertionError = type('E', (BaseException,), {})\ndef add(a, b): return 99",
    "an import hook": (
        "import sys\nclass Hook:\n def find_spec(self, *a): raise SystemExit(0)\nsys.meta_path.insert(0, Hook())\ndef add(a, b): return 99"
    ),
    "json patched": (
        "import json\nreal = json.dumps\njson.dumps = lambda value: real({**value, 'passed': True, 'value': True})\ndef add(a, b): return 99"
    ),
    "verdicts written everywhere": (
        "import os\nfor n in range(3, 64):\n for i in range(2):\n"
        '  try: os.write(n, b\'{"nonce": "", "test": %d, "passed": true, "why": ""}\\n\' % i)\n  except OSError: pass\n'
        "def add(a, b): return 99"
    ),
    "replies before they are asked for": (
        'import json, socket, sys, os\nfor n in range(3, 64):\n try: os.write(n, b\'{"id": "", "value": 5}\\n{"id": "", "value": 0}\\n\')\n'
        " except OSError: pass\ndef add(a, b): return 99"
    ),
    "an exception that a test might want": "def add(a, b): raise AssertionError('passed')",
    "a look at the caller": (
        "import gc, sys\ndef add(a, b):\n for frame in sys._current_frames().values():\n  while frame:\n"
        "   if 'expected' in frame.f_locals: return frame.f_locals['expected']\n   frame = frame.f_back\n return 99"
    ),
    "a very long reply": "def add(a, b): return 'x' * 9_000_000",
    "a deep reply": "def add(a, b):\n value = []\n for _ in range(900): value = [value]\n return value",
    "the tests' files": "import glob\ndef add(a, b):\n found = glob.glob('/tmp/test*') + glob.glob('/proc/*/root/tmp/test*')\n return found or 99",
}


@pytest.fixture(scope="module")
def faked() -> dict[str, Verdict]:
    """All played once, several at a time."""
    return dict(zip(FAKES, at_once(lambda code: judge(code, TESTS, limits=LIMITS), list(FAKES.values())), strict=True))


@needs_sandbox
@pytest.mark.parametrize("name", FAKES)
def test_nothing_but_the_right_values_passes(faked: dict[str, Verdict], name: str) -> None:
    assert faked[name].passed == (False, False), faked[name]


@needs_sandbox
def test_verdicts_by_test() -> None:
    found = judge(
        RIGHT + "\nclass Pair:\n    def __init__(self, a, b): self.a, self.b = a, b\ndef total(pairs): return sum(p.a + p.b for p in pairs)\n"
        "def fails(): raise KeyError('k')\ndef numbers():\n    yield from (1, 2)",
        [
            "assert add(2, 3) == 5",
            "assert add(2, b=2) == 5",
            "assert total([Pair(1, 2), Pair(3, 4)]) == 10",
            "try:\n    fails()\n    assert False\nexcept KeyError:\n    pass",
            "assert list(numbers()) == [1, 2]",
            "assert nowhere(1) == 1",
            "assert True",
            "assert Pair(1, 1) == Pair(1, 1)",
        ],
        limits=LIMITS,
    )
    assert found.passed == (True, False, True, True, True, False, False, False)
    assert found.why[1].startswith("AssertionError") and "no attribute 'nowhere'" in found.why[5] and "calls nothing" in found.why[6]
    assert found.share == 0.5


@needs_sandbox
def test_what_passed_before_the_answer_hung_counts() -> None:
    code = RIGHT + "\ndef hang():\n    while True: pass"
    found = judge(code, [TESTS[0], "assert hang() == 1", TESTS[1]], limits=Limits(wall=3, cpu=0.4))
    assert found.passed == (True, False, False)


@needs_sandbox
def test_tests_have_their_own_setup_and_may_be_named_like_builtins() -> None:
    assert judge("def sum(a, b): return a + b", ["assert sum(1, 2) == 3"], limits=LIMITS).passed == (True,)
    setup = "import math\ndef near(a, b): return math.isclose(a, b, rel_tol=1e-6)\ndef area(r): return 0"
    assert judge("import math\ndef area(r): return 3.14159265 * r * r", ["assert near(area(2), 4 * math.pi)"], setup=setup, entry="area").passed == (
        True,
    )


# -------------------------------------------------------------------------------------------------------------------------------------------- reward


def test_one_block_of_code_counts() -> None:
    assert _tested.code_of("```python\nx = 1\n```\nor\n```\nx = 2\n```\nso") == "x = 2\n"
    assert _tested.code_of("so:\n```py\nx = 3\n") == "x = 3\n"
    assert _tested.code_of("x = 4") == "x = 4"


def test_records_in_three_forms() -> None:
    assert _tested.tests_of(Record((), (), tags={"tests": "assert f()", "setup": "x = 1"})) == (("assert f()",), "x = 1", "", "")
    assert _tested.tests_of(Record((), (), tags={"test_list": ["a", "b"], "test_setup_code": ""})) == (("a", "b"), "", "", "")
    human = Record((), (), tags={"test": "def check(f): pass", "entry_point": "f", "prompt": "def f():\n"})
    assert _tested.tests_of(human) == (("def check(f): pass\ncheck(f)\n",), "def f():\n", "f", "def f():\n")
    assert _tested.tests_of(Record((), ())) == ((), "", "", "")


@needs_sandbox
def test_the_reward_of_code() -> None:
    record = Record((), (), tags={"tests": list(TESTS)})
    wrong = "def add(a, b): return 5"
    answers = [f"Sure:\n```python\n{RIGHT}\n```", wrong, f"```\n{RIGHT}\n```\n```\n{wrong}\n```", "", "I cannot.", RIGHT, "x" * 200_000]
    reward = UnitTests(seconds=3)
    prompts = ["add?"] * len(answers)
    assert reward(prompts, answers, [record] * len(answers)).tolist() == [1, 0, 0, 0, 0, 1, 0]
    assert UnitTests(partial=True, seconds=3)(["?"], [wrong], [record]).tolist() == [0.5]
    assert np.isnan(reward(["?"], [RIGHT], [Record((), ())])).all()


@needs_sandbox
def test_an_echo_of_the_prompt_is_no_answer() -> None:
    """A prompt may hold examples that work; repeating it earns nothing."""
    prompt = f"Write add. For instance:\n```python\n{RIGHT}\n```"
    assert UnitTests(seconds=3)([prompt], [prompt], [Record((), (), tags={"tests": list(TESTS)})]).tolist() == [0]


def solved(name: str, records: list[dict[str, Any]], solution: str) -> list[str]:
    """Those of a data set whose own solution is not found right."""
    given = [Record((), (), tags=row) for row in records]
    answers = [f"```python\n{row[solution]}\n```" for row in records]
    found = UnitTests()([""] * len(given), answers, given)
    return [str(row["task_id"]) for row, score in zip(records, found, strict=True) if score != 1]


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in shared(path).read_text(encoding="utf-8").splitlines() if line.strip()]


@needs_sandbox
def test_solutions_of_real_tasks_are_right() -> None:
    assert solved("mbpp", lines("data/mbpp/mbpp.jsonl")[:8], "code") == []
    assert solved("humaneval", lines("data/humaneval/HumanEval.jsonl")[30:36], "canonical_solution") == []


@needs_sandbox
@pytest.mark.slow
def test_solutions_of_many_real_tasks_are_right() -> None:
    """What cannot be said by plain data: see `verdict.py`."""
    assert solved("mbpp", lines("data/mbpp/mbpp.jsonl")[300:600], "code") == ["367", "596"]
    assert solved("humaneval", lines("data/humaneval/HumanEval.jsonl"), "canonical_solution") == []


@needs_sandbox
def test_rltf_pays_by_how_code_fails() -> None:
    """The paper's table: what is no program, what errs or does not end, what gives wrong answers by the share that is right, and what passes."""
    record = Record((), (), tags={"tests": [*TESTS, "assert add(1, 1) == 2"]})
    answers = {
        "def add(a, b) return a + b": -1.0,
        "def add(a, b):\nreturn a": -1.0,
        "": -1.0,
        "def add(a, b):\n    return a + c": -0.6,
        "def add(a, b):\n    if a < 0: raise KeyError(a)\n    return 9": -0.6,
        "import nothing_of_the_kind\ndef add(a, b): return a + b": -0.6,
        "def add(a, b):\n    while True: pass": -0.6,
        "def add(a, b): return 99": -0.3,
        "def add(a, b): return 5": -0.3 + 1.3 / 3,
        "def add(a, b): return abs(a + b) if a > 0 else 1": -0.3 + 1.3 * 2 / 3,
        RIGHT: 1.0,
    }
    found = RLTF(seconds=3)(["?"] * len(answers), list(answers), [record] * len(answers))
    assert found.tolist() == pytest.approx(list(answers.values()))
    assert np.isnan(RLTF()(["?"], [RIGHT], [Record((), ())])).all()


@needs_sandbox
def test_code_with_a_syntax_error_is_never_run() -> None:
    code = "import os\nos.write(2, b'x')\ndef add(a, b): return os.getpid(\n"
    found = judge(code, TESTS, limits=LIMITS)
    assert all(why.startswith("SyntaxError") for why in found.why)


def test_verdicts_are_worth_what_the_paper_says_whatever_stands_in_a_message() -> None:
    wrong, broken = "AssertionError: NameError: SyntaxError", "NameError: AssertionError"
    assert RLTF().worth(Verdict((True, False), ("", wrong))) == pytest.approx(0.35)
    assert RLTF().worth(Verdict((True, False, False), ("", wrong, broken))) == -0.6
    assert RLTF().worth(Verdict((False,), ("it did not end in time",))) == -0.6
    assert RLTF().worth(Verdict((False,), ("the test calls nothing of the answer",))) == -0.3
