"""A campaign against every promise: fuzz, damaged files, kills, lost ranks, special files, ambient switches.

    PYTHONPATH=tests python -m campaign --seconds 120 --seed 1 --json campaign.json

``test_campaign.py`` runs it under the marker ``campaign``; ``runner.py`` says how the time is shared out, ``trial.py``
what counts as a failure.
"""
