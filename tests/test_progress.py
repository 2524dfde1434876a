from __future__ import annotations

import pytest

from lib import progress


@pytest.mark.parametrize(("flag", "quiet"), [("1", True), ("0", False), ("", False)])
def test_the_flag_decides(monkeypatch: pytest.MonkeyPatch, flag: str, quiet: bool) -> None:
    monkeypatch.setenv("MAMBA_BOOK_HEADLESS", flag)
    assert progress.headless() is quiet


@pytest.mark.parametrize(
    ("terminal", "kernel", "quiet"),
    [(True, False, False), (False, True, False), (False, False, True)],
)
def test_without_the_flag_a_terminal_or_a_notebook_is_watched(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, kernel: bool, quiet: bool
) -> None:
    monkeypatch.delenv("MAMBA_BOOK_HEADLESS")
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(progress, "in_notebook", lambda: kernel)
    assert progress.headless() is quiet


def test_a_quiet_bar_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar(3, "training", quiet=True) as bar:
        bar.update(3)
    assert capsys.readouterr() == ("", "")
    with progress.bar(3, "training", start=1, quiet=False) as bar:
        bar.update(2)
        assert bar.n == 3
    assert "training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "kernel", "said"),
    [("1", True, ""), ("1", False, "note: x\n"), ("0", True, "note: x\n")],
)
def test_a_note_is_for_logs_and_watchers_not_for_pages(
    flag: str, kernel: bool, said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("MAMBA_BOOK_HEADLESS", flag)
    monkeypatch.setattr(progress, "in_notebook", lambda: kernel)
    progress.note("x")
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize("watched", [True, False])
def test_bars_of_transformers_follow_ours(monkeypatch: pytest.MonkeyPatch, watched: bool) -> None:
    import transformers

    before = transformers.logging.is_progress_bar_enabled()
    monkeypatch.setattr(progress, "headless", lambda: not watched)
    transformers.logging.enable_progress_bar()
    try:
        progress.quiet_transformers()
        assert transformers.logging.is_progress_bar_enabled() is watched
    finally:
        if not before:
            transformers.logging.disable_progress_bar()
