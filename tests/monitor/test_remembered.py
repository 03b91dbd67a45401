"""What is said of the recent past is asked once for each of its steps."""

from virtpoise_balancer.monitor.client import QueryAnswer
from virtpoise_balancer.monitor.remembered import Remembered
from virtpoise_balancer.monitor.replies import Series


def answer(value: float, *warnings: str) -> QueryAnswer:
    return QueryAnswer((Series({"instance": "h1"}, ((0.0, value),)),), warnings)


def test_a_step_is_asked_once_and_the_next_one_anew() -> None:
    remembered: Remembered[QueryAnswer] = Remembered()
    assert remembered.answer("a", 7, lambda: answer(1)) == answer(1)
    assert remembered.answer("a", 7, lambda: answer(2)) == answer(1)
    assert remembered.answer("b", 7, lambda: answer(3)) == answer(3)
    assert remembered.answer("a", 8, lambda: answer(4)) == answer(4)


def test_an_answer_with_warnings_is_not_remembered() -> None:
    remembered: Remembered[QueryAnswer] = Remembered()
    assert remembered.answer("a", 7, lambda: answer(1, "partial response")).warnings
    assert remembered.answer("a", 7, lambda: answer(2)) == answer(2)
