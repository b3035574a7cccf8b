"""What becomes of the passages of rendered videos."""

from types import SimpleNamespace

from model_builder.measure.video import Score, Speed, judge, table
from model_builder.render.video import Clip, Passage


def told(text, single=None, first=1.0, last=3.0):
    best = SimpleNamespace(reading=SimpleNamespace(text=single or text))
    return SimpleNamespace(text=text, confidence=0.9), SimpleNamespace(first=first, last=last, best=best)


def judged(*events):
    score = Score()
    judge(score, Clip("day", 10.0, (Passage("京A12345", 1.0, 3.0, 90), Passage("沪B99999", 6.0, 8.0, 90))), events)
    return score


def test_each_passage_is_exact_wrong_or_missed():
    score = judged(told("京A12345"), told("沪B99998", first=6, last=8))
    assert (score.passages, score.exact, score.doubled, score.missed, score.false) == (2, 1, 0, 0, 0)
    assert judged(told("京A12345")).missed == 1


def test_a_second_event_of_a_passage_is_a_double_and_the_exact_one_counts():
    score = judged(told("京A12346"), told("京A12345"), told("沪B99999", first=6, last=8))
    assert (score.exact, score.doubled, score.false) == (2, 1, 0)


def test_what_does_not_pass_or_at_another_time_is_false():
    score = judged(told("粤C77777"), told("京A12345", first=50, last=60), told("沪B99999", first=6, last=8))
    assert (score.exact, score.missed, score.false) == (1, 1, 2)


def test_errors_of_fused_readings_are_compared_with_the_best_frames():
    score = judged(told("京A12345", "京A12348"), told("沪B99998", "沪B99998", first=6, last=8))
    assert (score.fused, score.single) == (1, 2)
    assert "1, 2: 0.50" in table(score, Speed(1.0, 100, 50))


def test_streams_follow_from_the_time_of_a_frame():
    assert "| 10.0 |" in table(Score(), Speed(2.0, 100, 50)).splitlines()[-1]
