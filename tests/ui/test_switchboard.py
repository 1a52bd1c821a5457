from __future__ import annotations

from cxr_assistant.ui.switchboard import Switchboard


def test_stop_sets_the_flag_of_the_visitor_and_of_nobody_else() -> None:
    board = Switchboard()
    with board.running("ann") as hers, board.running("bob") as his:
        assert board.stop("ann")
        assert hers.is_set() and not his.is_set()


def test_stop_without_an_answer_says_so() -> None:
    assert not Switchboard().stop("ann")


def test_a_new_question_supersedes_the_old_answer() -> None:
    board = Switchboard()
    with board.running("ann") as old, board.running("ann") as new:
        assert old.is_superseded and old.is_set()
        assert not new.is_set()


def test_ending_an_old_answer_leaves_the_new_one_stoppable() -> None:
    board = Switchboard()
    first, second = board.running("ann"), board.running("ann")
    first.__enter__()
    flag = second.__enter__()
    first.__exit__(None, None, None)
    assert board.stop("ann") and flag.is_set()
    second.__exit__(None, None, None)
    assert len(board) == 0


def test_a_closed_stream_sets_its_flag() -> None:
    board = Switchboard()
    with board.running("ann") as flag:
        pass
    assert flag.is_set()


def test_dismissing_keeps_the_rest_from_appearing() -> None:
    board = Switchboard()
    with board.running("ann") as flag:
        board.dismiss("ann")
        assert flag.is_superseded
