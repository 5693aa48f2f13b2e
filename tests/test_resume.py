"""A training that is killed at random moments and restarted ends with the bits of an undisturbed one."""

from kill_and_resume import finals, interrupted, run, same


def test_a_training_that_was_killed_ends_with_the_same_bits(tmp_path):
    quiet, troubled = tmp_path / "quiet", tmp_path / "troubled"
    quiet.mkdir()
    troubled.mkdir()
    assert run(quiet, 100)
    assert interrupted(troubled, 100, kills=3) == 3
    assert same(finals(quiet), finals(troubled))
