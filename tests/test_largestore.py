"""Planning, looking and reading grow in proportion to the runs that there are."""

import largestore

from kdutils import material, schedule


def test_a_generated_store_is_found_whole(tmp_path):
    plan = largestore.planned(20)
    largestore.build(plan, tmp_path)
    assert set(largestore.seconds(plan, tmp_path)) == {"plan", "resume", "read", "all"}


def test_files_that_runs_share_are_looked_at_once(monkeypatch):
    """However many runs there are; at each run it took most of the time of planning."""
    looked, digest = [], material.files_digest
    monkeypatch.setattr(material, "files_digest", lambda name: looked.append(name) or digest(name))
    assert len(schedule.jobs_of(largestore.planned(20))) == 21
    assert sorted(looked) == ["mini-qwen-105k", "mini-qwen-493k"]
